"""The pages, a module each. quell.console.registry lists them."""
