"""Reference points: what simple methods score on the same examples, computed before cells run."""
