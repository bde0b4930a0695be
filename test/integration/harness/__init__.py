"""What the integration tests share: processes, certificates, clients, backends.

Only Python's standard library and command line tools. Everything listens on
loopback, on ports that no other test process holds, and dies with the test.
"""
