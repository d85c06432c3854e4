"""Online store on Redis: the same records, one round trip per read, many writers.

Below the configured prefix: ``s/<feature set>`` is its description, ``sets`` the keys of all,
``d/<feature set>``, NUL and the entity one record; ``k/<space>`` a hash of plain values.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sunloom.config.feature_store import RedisOnline
from sunloom.errors import DependencyError, StoreError
from sunloom.feature_store.stores.online.key_value import RawWrite
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.record_codec import time_of

if TYPE_CHECKING:
    import redis

_SCAN_COUNT = 1_000
# Records per script call: the server runs a script to its end before it serves others.
_CHUNK = 500
_RETRIES = 3

# The scripts below are run by the server, each atomically.
# A Lua number is a float and cannot hold every time exactly, so its two halves are compared.
_PUT_NEWER = """
local written = 0
for i, key in ipairs(KEYS) do
  local record, expiry = ARGV[2 * i - 1], ARGV[2 * i]
  local stored = redis.call('GETRANGE', key, 0, 7)
  local keep = false
  if #stored == 8 then
    local stored_low, stored_high = struct.unpack('<I4i4', stored)
    local low, high = struct.unpack('<I4i4', record)
    keep = stored_high > high or (stored_high == high and stored_low > low)
  end
  if not keep then
    if expiry == '' then redis.call('SET', key, record)
    else redis.call('SET', key, record, 'PXAT', expiry) end
    written = written + 1
  end
end
return written
"""
# The set of all descriptions spares the listing a scan of the server's keys.
_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], KEYS[1])
return 1
"""
# Values are passed with a mark before them, so that an empty one differs from none.
_APPLY = """
local at = 2
for _ = 1, tonumber(ARGV[1]) do
  local stored = redis.call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1])
  if (stored and '=' .. stored or '') ~= ARGV[at + 2] then return 0 end
  at = at + 3
end
while at < #ARGV do
  local space, key, value = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  if value == '' then redis.call('HDEL', space, key)
  else redis.call('HSET', space, key, string.sub(value, 2)) end
  at = at + 3
end
return 1
"""


class RedisStore(OnlineStore):
    """The online store on a Redis server.

    Args:
        config: Address, user and prefix.
        now_us: The clock that records expire by, microseconds since the epoch.

    Raises:
        DependencyError: The package ``redis`` is not installed.
    """

    def __init__(self, config: RedisOnline, now_us: Callable[[], int] | None = None) -> None:
        super().__init__(RedisBackend(config), now_us)


class RedisBackend:
    """Keys and values on a Redis server.

    Args:
        config: Address, user and prefix.
    """

    def __init__(self, config: RedisOnline) -> None:
        self._prefix = config.prefix.encode()
        url = urlsplit(config.url)
        self._address = f"{url.scheme}://{url.netloc}{url.path}"
        self._client, self._errors = _connect(config)
        # A connection serves one command at a time, so each thread has its own.
        self._local = threading.local()
        self._put = self._client.register_script(_PUT_NEWER)
        self._apply = self._client.register_script(_APPLY)
        self._swap = self._client.register_script(_SWAP)

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key in one round trip."""
        full_keys = [self._prefix + key for key in keys]
        try:
            return self._fetch_directly(full_keys)
        except self._errors.RedisError:
            pass  # the client's own command below retries, and raises a named error
        with self._named_errors():
            values: list[bytes | None] = self._client.mget(full_keys)
        return values

    def swap(self, key: bytes, expected: bytes | None, value: bytes) -> bool:
        """Write the value if the key still has the expected one; whether it did."""
        keys = [self._prefix + key, self._prefix + b"sets"]
        with self._named_errors():
            # A description is never empty, so the empty value can mean that there is none.
            return bool(self._swap(keys=keys, args=[expected or b"", value]))

    def put_newer(self, keys: Sequence[bytes], records: Sequence[bytes], ttl_us: int | None) -> int:
        """Write each record unless its key has one of a later time; how many were written."""
        # Each script is atomic by itself: MULTI would only block other clients for longer.
        with self._named_errors(), self._client.pipeline(transaction=False) as pipe:
            for at in range(0, len(keys), _CHUNK):
                chunk = records[at : at + _CHUNK]
                arguments = [a for r in chunk for a in (r, _expiry_ms(r, ttl_us))]
                full_keys = [self._prefix + key for key in keys[at : at + _CHUNK]]
                self._put(keys=full_keys, args=arguments, client=pipe)
            return sum(pipe.execute())

    def sweep(self, _prefix: bytes, _limit_us: int, _count: int) -> None:
        """Nothing to do: the server deletes expired records."""

    def expire(self, prefix: bytes, ttl_us: int | None) -> None:
        """Let every record below the prefix expire so long after its feature time."""
        with self._named_errors(), self._client.pipeline(transaction=False) as pipe:
            for key, record in self.items(prefix):
                if ttl_us is None:
                    pipe.persist(self._prefix + key)
                else:
                    pipe.pexpireat(self._prefix + key, int(_expiry_ms(record, ttl_us)))
                # In parts: the pipeline keeps its commands in memory until they are sent.
                if len(pipe) >= _SCAN_COUNT:
                    pipe.execute()
            pipe.execute()

    def description_keys(self) -> list[bytes]:
        """Keys of the feature sets' descriptions."""
        with self._named_errors():
            keys = self._client.smembers(self._prefix + b"sets")
        return [key[len(self._prefix) :] for key in keys]

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values below the prefix; walks all of the server's keys."""
        start = len(self._prefix)
        # Escaped: the prefix itself may contain characters of patterns.
        pattern = re.sub(rb"[*?\[\]^\\]", rb"\\\g<0>", self._prefix + prefix) + b"*"
        # A server that resizes its table in between may return a key twice.
        seen: set[bytes] = set()
        for keys in self._pages(lambda cursor: self._client.scan(cursor, pattern, _SCAN_COUNT)):
            fresh = [key for key in dict.fromkeys(keys) if key not in seen]
            seen.update(fresh)
            with self._named_errors():
                values = self._client.mget(fresh) if fresh else []
            for key, value in zip(fresh, values, strict=True):
                if value is not None:
                    yield key[start:], value

    def get_many(self, space: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """Plain values in one round trip."""
        if not keys:
            return []
        with self._named_errors():
            values: list[bytes | None] = self._client.hmget(self._space_key(space), list(keys))
        return values

    def apply(self, writes: Sequence[RawWrite], expected: Sequence[RawWrite]) -> bool:
        """Plain writes by one script; none where a value is not the expected one."""
        # The script refers to spaces by number: a space's key is sent once, not with every write.
        spaces = list(dict.fromkeys(space for space, _, _ in (*expected, *writes)))
        numbers = {space: number for number, space in enumerate(spaces, 1)}
        arguments: list[Any] = [len(expected)]
        for space, key, value in (*expected, *writes):
            arguments += (numbers[space], key, b"" if value is None else b"=" + value)
        keys = [self._space_key(space) for space in spaces]
        with self._named_errors():
            return bool(self._apply(keys=keys, args=arguments))

    def scan(self, space: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Plain keys and values of a space, each key once."""
        name = self._space_key(space)
        seen: set[bytes] = set()
        for page in self._pages(lambda cursor: self._client.hscan(name, cursor, count=_SCAN_COUNT)):
            for key, value in page.items():
                if key not in seen:
                    seen.add(key)
                    yield key, value

    def _fetch_directly(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """``MGET`` on this thread's own connection, without the client's work per command."""
        # Pool, encoding and retries are most of the time of reading one entity.
        connection = self._connection()
        parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)]
        parts += [b"$%d\r\n%b\r\n" % (len(key), key) for key in keys]
        try:
            connection.send_packed_command((b"".join(parts),), check_health=False)
            values: list[bytes | None] = connection.read_response()
        except BaseException:
            # The next reader must not get the response to this command.
            connection.disconnect()
            raise
        return values

    def _connection(self) -> Any:
        local = self._local.__dict__
        # A forked process must not use its parent's connection.
        if local.get("process") != os.getpid():
            local["process"] = os.getpid()
            pool = self._client.connection_pool
            local["connection"] = pool.connection_class(**pool.connection_kwargs)
        return local["connection"]

    def _space_key(self, space: bytes) -> bytes:
        return self._prefix + b"k/" + space

    def _pages(self, scan: Callable[[int], Any]) -> Iterator[Any]:
        cursor = 0
        while True:
            with self._named_errors():
                cursor, page = scan(cursor)
            yield page
            if cursor == 0:
                return

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turns errors of the client into errors that name the server and the setting."""
        errors = self._errors
        try:
            yield
        except errors.AuthenticationError as error:
            raise StoreError(
                f"The Redis server at {self._address} refuses the user or password: {error}",
                "Set feature_store.online.username and .password.",
            ) from error
        except (errors.ConnectionError, errors.TimeoutError) as error:
            raise StoreError(
                f"The Redis server at {self._address} does not answer: {error}",
                "Start it, or correct feature_store.online.url.",
            ) from error
        except errors.RedisError as error:
            raise StoreError(f"The Redis server at {self._address} refuses: {error}") from error


def _connect(config: RedisOnline) -> tuple[redis.Redis, Any]:
    """The client, and the module of its errors."""
    try:
        import redis
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise DependencyError(
            "The online store on Redis needs the package redis.", "pip install 'sunloom[redis]'"
        ) from error
    options: dict[str, Any] = {}
    if config.username is not None:
        options["username"] = config.username
    if config.password is not None:
        options["password"] = config.password.get_secret_value()
    client = redis.Redis.from_url(
        config.url,
        socket_timeout=config.timeout_s,
        socket_connect_timeout=config.timeout_s,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), _RETRIES),
        **options,
    )
    return client, redis.exceptions


def _expiry_ms(record: bytes, ttl_us: int | None) -> bytes:
    """Milliseconds since the epoch; empty where the record never expires."""
    if ttl_us is None:
        return b""
    # Rounded up, so that no record is deleted early; 0 would not be a time to Redis.
    return str(max(1, -(-(time_of(record) + ttl_us) // 1_000))).encode()
