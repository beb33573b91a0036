"""The list of stages of a build, in the order in which they run."""

from puna.build.base import base_stage, base_tokenizer_stage, old_stage, start_stage
from puna.build.data import chat_pack_stage, chat_stage, corpus_stage, pack_stage, tokenizer_stage
from puna.build.finish import judge_stage, release_stage, report_stage
from puna.build.graph import Stage
from puna.build.mixture import is_capped
from puna.build.origin import first_weights, needs_start
from puna.build.training import calibrate_stage, calibrate_tuning_stage, pretrain_stage, tune_stage
from puna.recipe.schema import Recipe


def stages_of(recipe: Recipe, *, with_reference: bool = False) -> list[Stage]:
    """The stages of `recipe` in the order in which they run."""
    capped = is_capped(recipe.corpus.named)
    starts = first_weights(recipe)
    stages = [corpus_stage()]
    if recipe.base is None:
        stages.append(tokenizer_stage())
    else:
        # The base is read first: what is wrong with it shows before the text is worked through.
        stages.insert(0, base_stage(recipe))
        stages += [old_stage(recipe)] * bool(recipe.base.old) + [base_tokenizer_stage(recipe)]
        stages += [start_stage(recipe)] * needs_start(recipe)
    stages += [pack_stage(recipe.base), calibrate_stage("calibrate", capped, starts)]
    # All that can be wrong with the tuning shows before the long part.
    timed = [tune for tune in recipe.tune if tune.minutes]
    if timed:
        stages.append(calibrate_tuning_stage(timed[0], starts))
    for number, tune in enumerate(recipe.tune):
        stages += [chat_stage(number, tune), chat_pack_stage(number)]
    stages.append(pretrain_stage("pretrain", starts))
    if with_reference:
        stages += [calibrate_stage("calibrate-reference", capped, starts), pretrain_stage("reference", starts)]
    stages += [tune_stage(number, tune) for number, tune in enumerate(recipe.tune)]
    stages += [judge_stage(recipe, with_reference), release_stage(recipe), report_stage(recipe, with_reference)]
    return stages
