"""The gateway's database: tables and what is asked of them. SQLite for one replica, PostgreSQL for several."""
