"""Whether a model has seen the questions that it is asked.

Comes in: items and what a model made of them, the text that it was trained on where that is known. Goes out: flags on single items,
comparisons with an interval and a p-value, and a plain sentence on what each can and cannot show. Must never happen: an item called
clean that could not be looked for, or a suspicion told as a proof.

Where to find what:
    origin      from a model, through its ledger, to the text that it was trained on
    exact       which items stand word for word in that text, and where
    passages    the scan behind it: texts in, the passages of each item out; kept between runs
    difference  clean against dirty items, and the same difference beside a control model's
    likelihood  Min-K%++: for a model without a corpus, from the log-probabilities of its tokens
    membership  how well such numbers part the items from texts that the model cannot have seen
    constat     for a model without a corpus or weights, from its scores on a task and on a twin of the task
    words       the sentences
Only `likelihood` needs torch, and only when it is called.
"""
