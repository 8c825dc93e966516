"""Types of results: what a command returns, writes into its output and reports as progress.

One module per kind of output. Reading them loads neither Ray nor torch.
"""
