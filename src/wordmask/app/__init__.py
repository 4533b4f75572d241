"""The page of `wordmask app`: words and a picture in, masks out, in a browser.

`job` holds what a visitor asks for, `engine` the networks and what is kept between runs, `results`
what is shown of a run; none of the three knows gradio. `controls` makes components from the
registries, `page` puts them together.
"""
