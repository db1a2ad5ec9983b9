#!/bin/sh
# Makes the database at the first start, then becomes the server. A first start that was cut off begins again. It works
# in a folder of its own, so whatever is in $PGDATA, such as a database of the official image, is never deleted.
set -eu
if [ ! -f "$PGDATA/PG_VERSION" ]; then
    new="$PGDATA.unfinished"
    rm -rf "$new"
    # shellcheck disable=SC2086 # several words
    initdb --pgdata "$new" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \
        --encoding UTF8 --auth-local=trust ${POSTGRES_INITDB_ARGS:-}
    echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
    pg_ctl --pgdata "$new" --options "-c listen_addresses=''" --wait start
    [ "$POSTGRES_DB" = postgres ] || createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --pgdata "$new" --mode fast --wait stop
    mv -T "$new" "$PGDATA" # fails where $PGDATA has files
fi
exec postgres -D "$PGDATA" -c listen_addresses='*'
