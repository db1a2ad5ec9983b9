#!/bin/sh
# Makes the database at the first start, then becomes the server. A first start that was cut off begins anew.
set -eu
if [ ! -f "$PGDATA/ready" ]; then
    rm -rf "$PGDATA"
    # shellcheck disable=SC2086 # several words
    initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \
        --encoding UTF8 --auth-local=trust ${POSTGRES_INITDB_ARGS:-}
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --pgdata "$PGDATA" --options "-c listen_addresses=''" --wait start
    [ "$POSTGRES_DB" = postgres ] || createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
    touch "$PGDATA/ready"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*'
