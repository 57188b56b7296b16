"""One HTML page for a run, or for several side by side: everything in the file, nothing from the network.

`lowvram_ft.report.page.build` puts it together. What models wrote is data in it, never markup: the templates escape
everything, scripts put text into the page as text, and the page's own policy lets no other script run.
"""
