"""One file per verb: parse, call, print. No work is done here."""
