"""Small texts that the tests train tokenizers on."""

import inspect
import json.decoder
import textwrap

CHINESE = (
    "第一条　为了保护民事主体的合法权益，调整民事关系，维护社会和经济秩序，根据宪法，制定本法。\n"
    "第二条　民法调整平等主体的自然人、法人和非法人组织之间的人身关系和财产关系。\n"
    "第三条　民事主体的人身权利、财产权利以及其他合法权益受法律保护，任何组织或者个人不得侵犯。\n"
)


def small_texts() -> list[str]:
    """A few kilobytes of code, of English prose and of Chinese statutes."""
    return [
        inspect.getsource(json.decoder), inspect.getsource(textwrap), inspect.getdoc(textwrap.TextWrapper) or "",
        CHINESE, CHINESE[60:], "system user assistant\nWhat does it do?\nIt returns a copy of the string.\n" * 3,
    ]  # fmt: skip
