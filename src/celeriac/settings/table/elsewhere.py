"""Settings of result stores that Celery has and we have not. All are refused."""

from __future__ import annotations

from typing import Any

from celeriac.settings.kinds import BOOLEAN, MAPPING, NUMBER, REFERENCE, TEXT, Kind
from celeriac.settings.setting import Setting
from celeriac.settings.table.rows import refused

_KINDS: dict[type, Kind] = {bool: BOOLEAN, int: NUMBER, float: NUMBER, str: TEXT, dict: MAPPING}


def _store(title: str, prefix: str, **defaults: Any) -> list[Setting]:
    """The rows of one store's settings: name without ``prefix`` and Celery's default."""
    advice = f"{title} is not supported as a result store: use redis://, sqlite:// or postgresql://."
    return [
        refused(
            prefix + name,
            _KINDS.get(type(default), REFERENCE),
            default,
            advice,
            secret=name.endswith(("key", "key_id", "kwargs", "settings")) or prefix + name == "database_url",
        )
        for name, default in defaults.items()
    ]


ROWS = (
    *_store("A cache (memcached)", "cache_", backend=None, backend_options={}),
    *_store(
        "Cassandra",
        "cassandra_",
        entry_ttl=None,
        keyspace=None,
        port=None,
        read_consistency=None,
        servers=None,
        bundle_path=None,
        table=None,
        write_consistency=None,
        auth_provider=None,
        auth_kwargs=None,
        options={},
    ),
    *_store(
        "S3",
        "s3_",
        access_key_id=None,
        secret_access_key=None,
        bucket=None,
        base_path=None,
        endpoint_url=None,
        region=None,
    ),
    *_store(
        "Azure Blob Storage",
        "azureblockblob_",
        container_name="celery",
        retry_initial_backoff_sec=2,
        retry_increment_base=2,
        retry_max_attempts=3,
        base_path="",
        connection_timeout=20,
        read_timeout=120,
    ),
    *_store("Google Cloud Storage", "gcs_", bucket=None, project=None, base_path="", ttl=0),
    *_store("Couchbase", "couchbase_", backend_settings=None),
    *_store("ArangoDB", "arangodb_", backend_settings=None),
    *_store("MongoDB", "mongodb_", backend_settings=None),
    *_store(
        "Cosmos DB",
        "cosmosdbsql_",
        database_name="celerydb",
        collection_name="celerycol",
        consistency_level="Session",
        max_retry_attempts=9,
        max_retry_wait_time=30,
    ),
    *_store(
        "Elasticsearch",
        "elasticsearch_",
        retry_on_timeout=None,
        max_retries=None,
        timeout=None,
        save_meta_as_text=True,
    ),
    *_store(
        "SQLAlchemy (db+...)",
        "database_",
        url=None,
        engine_options={"pool_pre_ping": True, "pool_recycle": 3600},
        engine_callback=None,
        short_lived_sessions=False,
        table_schemas=None,
        table_names=None,
        create_tables_at_setup=True,
    ),
)
