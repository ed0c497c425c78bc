"""NiceGUI pages of the console: one module per page; `frame` is the layout that all pages share."""
