"""A record of evidence made by hand, for the tests of the documents that are written from one."""

from puna.ledger.evidence import Ancestor, Check, Code, Contamination, Evidence, File, Measure, Source, Training

HOSTILE = 'x"</script>\n---\n| <b>模型</b> `a` \u202e'
READ = "2026-11-27T07:00:00.500000Z"
CHILD = {
    "ancestors": (
        Ancestor(name="llama", files=(File(path="model.safetensors", sha256="c" * 64),), digest="0" * 64, relation="continued", licence="llama2", parents=("meta-llama/Llama-2-7b",)),
        Ancestor(name="mine, before tuning", files=(File(path="base/model.safetensors", bytes=3, sha256="8" * 64),), relation="tuned", licence="Apache-2.0", own=True),
    )
}  # fmt: skip
LITTLE = {"measures": (), "sources": (), "licence": None, "weights": (), "training": (), "gate": (), "preprocessing": (), "shape": {}, "limits": (), "code": Code(),
          "contamination": None, "seed_commitment": None, "step0": None, "machine": {}, "environment": {}}  # fmt: skip


def evidence(**changes: object) -> Evidence:
    plain = Evidence(
        name="mine", title=HOSTILE, created="2026-11-28T08:00:00.123456Z", puna="0.1.0", architecture="LlamaForCausalLM", parameters=139_584,
        shape={"dim": 64, "layers": 2, "tied": True}, licence="Apache-2.0", languages=("en", "zh"), chats=True,
        weights=(File(path="model.safetensors", bytes=3, sha256="a" * 64), File(path="config.json", bytes=2, sha256="9" * 64)),
        sources=(Source(name="python", sha256="b" * 64, bytes=100, files=3, licence="psf-2.0", read=READ), Source(name="notes", licence="Our own terms"),
                 Source(name="talks", sha256="1" * 64, part="tuning"), Source(name="held-out text", sha256="2" * 64, bytes=7, part="testing")),
        preprocessing=("read: 3 to 3 documents, 100 to 100 bytes",),
        training=(Training(name="pretraining", tokens=1000, steps=10, seconds=1.5, optimiser="AdamW", began_with="e" * 64, settings={"lr_matrix": 0.1, "precision": "bf16"}),),
        measures=(Measure(task="heldout", metric="bits_per_byte", value=1.25, low=1.1, high=1.4, n=20, n_is="modules", chance=8.0, higher_is_better=False, model="base"),
                  Measure(task="quiz", metric="accuracy", value=0.5)),
        samples=2, contamination=Contamination(value=0.003, what="of the held-out lines"), gate=(Check(check="loads", passed=True, value="yes"),),
        environment={"torch": "2.13.0", "transformers": "absent", "python": "3.11.7", "machine": "x86_64"}, machine={"processor": "one"},
        code=Code(digest="7" * 64, commit="4" * 40, changed=False), seed_commitment="d" * 64, step0="e" * 64, ledger_entries=5, ledger_head="f" * 64,
        limits=("It is small.",),
    )  # fmt: skip
    return plain.model_copy(update=changes)
