"""The gateway's database: tables and their statements. SQLite for one replica, PostgreSQL for
several.
"""
