"""A local web page to look through captions and correct them."""
