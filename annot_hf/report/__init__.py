"""Numbers to pages: the only wing that imports Matplotlib and Jinja2."""
