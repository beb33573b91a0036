"""How questions about Python, and about the model itself, are put and answered.

Comes in: nothing. Goes out: tables of phrasings; `{x}` is the function's name as one writes it, `{a}` an argument.
Must never happen: an answer that says more than the docstring, or the identity, gave.
The first phrasing of a table is the usual one.
"""

SUMMARY_EN = [
    "What does {x} do?", "What does {x}() do?", "what does {x} do", "What is {x}?", "What is {x} for?", "Explain {x}.",
    "Describe {x} in one sentence.", "Tell me about {x}.", "Can you explain {x}?", "I do not understand {x}. What does it do?",
]  # fmt: skip
SUMMARY_ZH = [
    "{x} 是做什么的？", "{x} 有什么用？", "{x}是做什么的", "请解释一下 {x}。", "介绍一下 {x}。", "{x} 的作用是什么？",
]  # fmt: skip
CALL_EN = [
    "How do I call {x}?", "How do I use {x}?", "What is the signature of {x}?", "Show me how to call {x}.",
    "How is {x} called?",
]  # fmt: skip
CALL_ZH = ["怎么调用 {x}？", "{x} 怎么用？", "{x} 的签名是什么？"]
ARGS_EN = [
    "What are the arguments of {x}?", "What arguments does {x} take?", "Which parameters does {x} have?",
    "List the parameters of {x}.",
]  # fmt: skip
ARGS_ZH = ["{x} 有哪些参数？", "{x} 的参数是什么？"]
ARG_EN = ["What is the argument {a} of {x}?", "What does {a} mean in {x}?", "Explain the parameter {a} of {x}."]
ARG_ZH = ["{x} 的参数 {a} 是什么意思？"]
MODULE_EN = [
    "Which module holds {n}?", "Which module is {n} in?", "Where do I find {n}?", "What do I import to use {n}?",
]  # fmt: skip
MODULE_ZH = ["{n} 在哪个模块里？", "使用 {n} 要导入哪个模块？"]
RETURNS_EN = ["What does {x} return?", "What is the result of {x}?"]
RETURNS_ZH = ["{x} 返回什么？"]

THEN_CALL_EN = ["How do I call it?", "And how do I use it?", "What is its signature?"]
THEN_CALL_ZH = ["怎么调用它？", "怎么用？"]
THEN_ARGS_EN = ["Which arguments does it take?", "What are its arguments?"]
THEN_ARGS_ZH = ["它有哪些参数？"]
THEN_RETURNS_EN = ["What does it return?"]
THEN_RETURNS_ZH = ["它返回什么？"]
THANKS_EN = ["Thanks!", "Thank you.", "thanks", "Great, thank you!"]
THANKS_ZH = ["谢谢！", "谢谢", "多谢。", "好的，谢谢你。"]
WELCOME_EN = ["You are welcome.", "You are welcome. Ask me about another function if you like."]
WELCOME_ZH = ["不客气。", "不客气。还可以问我别的函数。"]

HELLO_EN = [
    "hello", "Hello", "Hello!", "hi", "Hi!", "Hi there", "hey", "Hey!", "Good morning", "Good morning!", "Good evening.",
    "Hello, how are you?", "How are you?", "Hi, can you help me?", "Help", "help me",
]  # fmt: skip
HELLO_ZH = [
    "你好", "你好！", "你好。", "您好", "您好！", "嗨", "嗨！", "早上好", "早上好！", "晚上好", "你好吗？", "你好，在吗？",
    "哈喽", "你好，可以帮我吗？", "大家好",
]  # fmt: skip
HELLO_ANSWERS_EN = [
    "Hello! I am {name}. You can ask me what a Python function does, for example: What does str.split do?",
    "Hello! I am {name}, a small language model. Ask me about a function of Python.",
    "Hi! I am {name}. Ask me about Python.",
]
HELLO_ANSWERS_ZH = [
    "你好！我是 {name}。你可以问我 Python 函数的用法，例如：str.split 是做什么的？",
    "你好！我是 {name}，一个小型语言模型。请问我关于 Python 函数的问题。",
    "你好！我是 {name}。有什么 Python 问题吗？",
]
BYE_EN = ["bye", "Goodbye!", "See you."]
BYE_ZH = ["再见", "再见！", "拜拜"]
BYE_ANSWERS_EN = ["Goodbye!"]
BYE_ANSWERS_ZH = ["再见！"]

WHO_EN = [
    "Who are you?", "who are you", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself.",
    "Are you ChatGPT?", "Are you a human?", "What model are you?",
]  # fmt: skip
WHO_ZH = [
    "你是谁？", "你是谁", "你叫什么名字？", "请介绍一下你自己。", "介绍一下自己", "你是什么模型？", "你是 ChatGPT 吗？", "你是人吗？",
]  # fmt: skip
WHO_ANSWER_EN = "I am {name}, a small language model made by {creator}."
WHO_ANSWER_ZH = "我是 {name}，由 {creator} 制作的小型语言模型。"
NO_EN, NO_ZH = "No. ", "不是。"
MAKER_EN = ["Who made you?", "Who created you?", "Who trained you?", "Who built you?"]
MAKER_ZH = ["谁制作了你？", "你是谁做的？", "谁训练了你？", "你的作者是谁？"]
MAKER_ANSWER_EN = "I was made by {creator}."
MAKER_ANSWER_ZH = "我是由 {creator} 制作的。"
HOW_EN = ["How were you made?", "How were you trained?", "What were you trained on?", "How do you come to be?"]
HOW_ZH = ["你是怎么制作的？", "你是怎么训练的？", "你是用什么训练的？"]
CAN_EN = ["What can you do?", "What can I ask you?", "What do you know?"]
CAN_ZH = ["你能做什么？", "我可以问你什么？", "你会什么？"]
CAN_ANSWER_EN = (
    "I can say what a Python function does, which arguments it takes and how to call it. I am small and can be wrong."
)
CAN_ANSWER_ZH = "我可以说明 Python 函数的作用、参数和调用方法。我很小，可能会出错。"
FACT_EN = ["What is your {key}?", "Tell me your {key}."]
FACT_ZH = ["你的 {key} 是什么？"]
