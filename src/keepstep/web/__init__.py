"""The local web page: a small server over the operations, and the files of the page. Needs the extra `web`."""
