"""How well tracks follow the truth: the measures that the published tables are written in."""
