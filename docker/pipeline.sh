#!/bin/sh
# Runs a recipe in containers and prints the report's address; `make compose-run` calls it. The object store must run.
# Exits with the exit code of the failed stage. The next run resumes with the first incomplete stage.
set -u
run() { $COMPOSE run --rm --no-TTY "$@"; }

# Shows the log of the stages while `run` waits for them; `run` itself shows only their names.
$COMPOSE logs --follow --since 0s --no-color &
trap 'kill $! 2>/dev/null' EXIT

run report
code=$?
if [ $code -ne 0 ]; then
    for stage in bucket dataset real-stats teacher prune distill evaluate export; do
        failed=$($COMPOSE ps --all --format '{{.ExitCode}}' $stage)
        if [ "${failed:-0}" -ne 0 ]; then
            echo "Stage $stage failed with exit code $failed:" >&2
            $COMPOSE logs --no-log-prefix --tail 20 $stage >&2
            exit "$failed"
        fi
    done
    exit $code
fi
echo "Report: s3://cat/$RECIPE/report/report.html. A browser on this machine can open it for 7 days at:"
run --no-deps bucket link "s3://cat/$RECIPE/report/report.html" --endpoint "http://localhost:${STORE_PORT:-9000}"
