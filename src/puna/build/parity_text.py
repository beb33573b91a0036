"""What the parity check reads: prompts and two short texts, in English and in Chinese, written for it.

Nothing comes in. Out go constants. Must never change without need: figures of two conversions are compared across versions.
"""

from typing import Final

# (language, prompt): a story, a fact, code, a list; each in one language.
PROMPTS: Final[tuple[tuple[str, str], ...]] = (
    ("en", "Once upon a time"),
    ("en", "The highest mountain of South America is"),
    ("en", "def add(a: int, b: int) -> int:\n    "),
    ("en", "She opened the letter, read it twice, and then"),
    ("zh", "从前有一座山，山上有"),
    ("zh", "中国最长的河流是"),
    ("zh", "三月的高原上，风从北方吹来，"),
    ("zh", "他打开信，读了两遍，然后"),
)

TEXTS: Final[dict[str, tuple[str, ...]]] = {
    "en": (
        "Above the last villages the road turns to gravel, and after an hour even the gravel ends. From there one walks. "
        "The grass of the puna is short and yellow, it grows in hard round cushions, and between the cushions the ground is "
        "bare. Nothing here is taller than a llama. The animals stand in small groups with their backs to the wind and lift "
        "their heads only when something unknown comes near. A herder told us that he knows each of his ninety by the way it "
        "walks, and that in all his years he has lost four: two to the cold, one to a puma, and one, he said, to curiosity.\n",
        "To measure how much a rounded number costs, keep the exact one beside it. Take a weight of 0.4127 and four bits to "
        "write it with. Sixteen steps between -1 and 1 are 0.125 apart, so the nearest is 0.375, and the error is 0.0377. One "
        "such error is nothing. A layer has millions of them, they point in all directions, and most of them cancel; what is "
        "left over is what the next layer sees. Whether a reader would notice cannot be said from the weights alone. Let the "
        "model read a page before and after, and count the bits it needs for each letter.\n",
        "\"Is the bridge open?\" asked the driver.\n\"It was this morning,\" said the woman at the counter, \"but the river has "
        "been rising since noon. If I were you I would wait until the bus from the other side arrives. If it arrives, you can "
        "go.\"\nHe bought a cup of coffee, sat down at the window and watched the rain. At ten past four two lights came round "
        "the bend.\n",
    ),
    "zh": (
        "过了最后几个村庄，柏油路变成了碎石路，再走一个小时，连碎石也没有了，剩下的路只能步行。高原上的草又短又黄，一丛一丛长得很硬，草丛之间"
        "露着土。这里没有比羊驼更高的东西。它们三五成群地站着，背对着风，只有陌生的东西走近时才抬起头来。一位牧人告诉我们，他有九十只羊驼，"
        "看走路的样子就能认出每一只；这么多年他一共丢过四只：两只冻死，一只被美洲狮叼走，还有一只，他说，是因为太好奇。\n",
        "想知道把一个数取整要付出多大代价，就把原来的数留在旁边。比如一个权重是0.4127，只用四位来写。从-1到1分成十六格，每格0.125，最近的"
        "一格是0.375，误差是0.0377。一个误差算不了什么，可是一层里有几百万个，方向各不相同，大部分互相抵消，剩下的才是下一层看到的。读者会不会"
        "察觉，光看权重说不清楚。让模型在取整之前和之后各读一页书，数一数每个字需要多少比特，就知道了。\n",
        "“桥通了吗？”司机问。\n“早上还通着，”柜台后面的女人说，“可是河水从中午起一直在涨。我要是你，就等对面的班车过来。车来了，你再走。”\n"
        "他买了一杯咖啡，坐在窗边看雨。四点十分，两盏车灯拐过了弯。\n",
    ),
}  # fmt: skip
