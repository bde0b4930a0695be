"""An SQLite file of the test's own, as if it were a server."""

import os
import sqlite3

from .proc import temp_dir


class Database:
    """Another program's lock freezes it, and it is halted by turning into
    something else."""

    def __init__(self, path=None):
        self.path = path or os.path.join(temp_dir(), "routes.db")
        self.lock = None

    def start(self):
        if os.path.exists(self.path + ".away"):
            os.rename(self.path + ".away", self.path)
        self.sql("CREATE TABLE IF NOT EXISTS routes "
                 "(identifier TEXT PRIMARY KEY, destination TEXT)")
        return self

    def sql(self, text, rows=()):
        db = sqlite3.connect(self.path)
        if rows:
            db.executemany(text, rows)
        else:
            db.execute(text)
        db.commit()
        db.close()

    def routes(self, routes):
        self.sql("REPLACE INTO routes VALUES (?, ?)", list(routes.items()))

    def url(self):
        return f"sqlite://{self.path}"

    def freeze(self):
        self.lock = sqlite3.connect(self.path, isolation_level=None)
        self.lock.execute("BEGIN EXCLUSIVE")

    def thaw(self):
        if self.lock:
            self.lock.close()
            self.lock = None

    def halt(self):
        os.rename(self.path, self.path + ".away")
        with open(self.path, "wb") as f:
            f.write(os.urandom(8192))

    def stop(self):
        self.thaw()

    @staticmethod
    def output(_start=0):
        return ""
