"""The list of stages of a build, in the order in which they run."""

from puna.build.data import chat_pack_stage, chat_stage, corpus_stage, pack_stage, tokenizer_stage
from puna.build.finish import judge_stage, release_stage, report_stage
from puna.build.graph import Stage
from puna.build.mixture import is_capped
from puna.build.training import calibrate_stage, calibrate_tuning_stage, pretrain_stage, tune_stage
from puna.recipe.schema import Recipe


def stages_of(recipe: Recipe, *, with_reference: bool = False) -> list[Stage]:
    """The stages of `recipe` in the order in which they run."""
    capped = is_capped(recipe.corpus.named)
    stages = [corpus_stage(), tokenizer_stage(), pack_stage(), calibrate_stage("calibrate", capped)]
    # All that can be wrong with the tuning shows before the long part.
    timed = [tune for tune in recipe.tune if tune.minutes]
    if timed:
        stages.append(calibrate_tuning_stage(timed[0]))
    for number, tune in enumerate(recipe.tune):
        stages += [chat_stage(number, tune), chat_pack_stage(number)]
    stages.append(pretrain_stage("pretrain"))
    if with_reference:
        stages += [calibrate_stage("calibrate-reference", capped), pretrain_stage("reference")]
    stages += [tune_stage(number, tune) for number, tune in enumerate(recipe.tune)]
    stages += [judge_stage(recipe, with_reference), release_stage(recipe), report_stage(recipe, with_reference)]
    return stages
