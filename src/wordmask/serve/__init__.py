"""The service: what other programs and annotation tools speak to over HTTP.

`app.py` is what callers see, `service.py` what its routes ask for, `engine.py` what answers with
networks, in this process or in workers (`on_litserve.py`, `on_ray.py`), `launch.py` what starts it.
Importing it loads no torch.
"""
