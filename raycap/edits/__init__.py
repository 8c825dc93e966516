"""People's corrections of captions: a log beside the captions, and what it makes of their rows."""
