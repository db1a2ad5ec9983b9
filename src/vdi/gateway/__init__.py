"""The web side: login, portal, REST API, the check of every request to a desktop, and history."""
