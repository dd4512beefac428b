#!/usr/bin/env bash
# Proves the ledger on three real ClickHouse servers in containers: once sharded (three shards), once replicated (three replicas of one).
# For your CI: needs docker, curl and `spanledger` (pip install 'spanledger[gateway]') on the PATH; takes about two minutes.
#
#   deploy/verify-cluster.sh [IMAGE]        default: clickhouse/clickhouse-server:26.2
#
# What it prints at the end, for each form:
#   sharded     300 calls sent, 300 rows on every node, 300 ids
#   sharded     one node down: spans were kept by their sender, 300 rows more after its return
#   replicated  300 calls sent, 300 rows on every node, 300 ids
#   replicated  one node down: spans were taken, 300 rows more on every node after its return
#   spanledger verify finds no difference
# It exits with 1 at the first figure that is another.
set -euo pipefail

for needed in spanledger docker curl; do
  command -v "$needed" >/dev/null || { echo "FAILED: $needed is not on the PATH" >&2; exit 1; }
done

image=${1:-clickhouse/clickhouse-server:26.2}
name=spanledger-verify-$$
work=$(mktemp -d)
gateway=
trap 'stop' EXIT

stop() {
  [ -z "$gateway" ] || kill "$gateway" 2>/dev/null || true
  docker ps --all --quiet --filter "label=$name" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
  docker network rm "$name" >/dev/null 2>&1 || true
  rm -rf "$work"
}

fail() { echo "FAILED: $*" >&2; exit 1; }

wait_for() { # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waited in vain for: $*"; sleep 0.5; done
}

ask() { # NODE QUERY
  docker exec "$name-$1" clickhouse-client --password secret --query "$2"
}

configure() { # sharded | replicated
  local shards= node
  for node in 1 2 3; do
    local replica="<replica><host>$name-$node</host><port>9000</port><user>default</user><password>secret</password></replica>"
    if [ "$1" = sharded ]; then shards+="<shard><internal_replication>true</internal_replication>$replica</shard>"; else shards+=$replica; fi
  done
  [ "$1" = sharded ] || shards="<shard><internal_replication>true</internal_replication>$shards</shard>"
  for node in 1 2 3; do
    local shard=$node
    [ "$1" = sharded ] || shard=1
    cat >"$work/$node.xml" <<XML
<clickhouse>
  <remote_servers><ledger>$shards</ledger></remote_servers>
  <macros><shard>$shard</shard><replica>$node</replica></macros>
  <zookeeper><node><host>$name-1</host><port>9181</port></node></zookeeper>
  <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
</clickhouse>
XML
  done
  cat >"$work/keeper.xml" <<XML
<clickhouse>
  <keeper_server>
    <tcp_port>9181</tcp_port><server_id>1</server_id>
    <log_storage_path>/var/lib/clickhouse/coordination/log</log_storage_path>
    <snapshot_storage_path>/var/lib/clickhouse/coordination/snapshots</snapshot_storage_path>
    <raft_configuration><server><id>1</id><hostname>$name-1</hostname><port>9234</port></server></raft_configuration>
  </keeper_server>
</clickhouse>
XML
}

start_nodes() {
  docker network create --label "$name" "$name" >/dev/null
  local node
  for node in 1 2 3; do
    local mounts=(--volume "$work/$node.xml:/etc/clickhouse-server/config.d/cluster.xml:ro")
    [ "$node" != 1 ] || mounts+=(--volume "$work/keeper.xml:/etc/clickhouse-server/config.d/keeper.xml:ro" --publish 127.0.0.1::8123)
    docker run --detach --name "$name-$node" --hostname "$name-$node" --network "$name" --label "$name" \
      --env CLICKHOUSE_PASSWORD=secret --env CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT=1 "${mounts[@]}" "$image" >/dev/null
  done
  for node in 1 2 3; do wait_for 60 ask "$node" "SELECT 1"; done
}

send() { # FIRST: 300 calls in 30 requests; prints how many requests were taken
  local taken=0 request number
  for request in $(seq 0 29); do
    local spans=
    for number in $(seq $(($1 + request * 10)) $(($1 + request * 10 + 9))); do
      local hex; hex=$(printf '%016x' "$number")
      spans+="${spans:+,}{\"traceId\":\"$hex$hex\",\"spanId\":\"$hex\",\"name\":\"chat\",\"startTimeUnixNano\":\"$(date +%s)000000000\",\"endTimeUnixNano\":\"$(date +%s)500000000\",\"attributes\":[
        {\"key\":\"gen_ai.operation.name\",\"value\":{\"stringValue\":\"chat\"}},{\"key\":\"gen_ai.provider.name\",\"value\":{\"stringValue\":\"openai\"}},
        {\"key\":\"gen_ai.request.model\",\"value\":{\"stringValue\":\"gpt-4.1-mini\"}},{\"key\":\"gen_ai.response.id\",\"value\":{\"stringValue\":\"verify-cluster-$hex\"}},
        {\"key\":\"gen_ai.usage.input_tokens\",\"value\":{\"intValue\":\"1000\"}},{\"key\":\"gen_ai.usage.output_tokens\",\"value\":{\"intValue\":\"100\"}}]}"
    done
    local status
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' --max-time 90 --header 'Content-Type: application/json' \
      --data "{\"resourceSpans\":[{\"scopeSpans\":[{\"scope\":{\"name\":\"verify\"},\"spans\":[$spans]}]}]}" "http://127.0.0.1:$port/v1/traces" || true)
    [ "$status" != 200 ] || taken=$((taken + 1))
  done
  echo "$taken"
}

rows_are() { # NODE COUNT
  [ "$(ask "$1" "SELECT count(), uniqExact(trace_id) FROM spanledger.llm_calls FINAL")" = "$(printf '%s\t%s' "$2" "$2")" ]
}

prove() { # sharded | replicated
  configure "$1"
  start_nodes
  local http node
  http=$(docker port "$name-1" 8123/tcp | head -n 1)
  export SPANLEDGER_DSN="clickhouse://default:secret@$http/spanledger" SPANLEDGER_CLUSTER=ledger SPANLEDGER_REPLICATED=true
  export SPANLEDGER_SPOOL_DIR="$work/spool-$1"
  spanledger migrate >/dev/null
  port=$((20000 + RANDOM % 20000))
  spanledger gateway --port "$port" --no-rollups 2>"$work/gateway.log" &
  gateway=$!
  wait_for 60 curl --silent --fail "http://127.0.0.1:$port/readyz"

  [ "$(send 1)" = 30 ] || fail "$1: not all spans were taken: $(tail -n 3 "$work/gateway.log")"
  for node in 1 2 3; do wait_for 60 rows_are "$node" 300; done
  echo "$1: 300 calls sent, 300 rows on every node, 300 ids"

  docker stop "$name-3" >/dev/null
  local taken; taken=$(send 1001)
  if [ "$1" = replicated ]; then
    [ "$taken" = 30 ] || fail "replicated: only $taken of 30 requests were taken while a node was down"
    rows_are 2 600 || fail "replicated: a row is missing while a node is down"
  else
    [ "$taken" -lt 30 ] || fail "sharded: all spans were taken although a shard was down: where are its rows?"
  fi
  docker start "$name-3" >/dev/null
  wait_for 60 ask 3 "SELECT 1"
  wait_for 60 curl --silent --fail "http://127.0.0.1:$port/readyz"
  [ "$1" = replicated ] || { sleep 31; [ "$(send 1001)" = 30 ] || fail "sharded: spans are refused after the shard's return"; } # what its sender does
  for node in 1 2 3; do wait_for 120 rows_are "$node" 600; done
  if [ "$1" = replicated ]; then
    echo "$1: one node down: spans were taken, 300 rows more on every node after its return"
  else
    echo "$1: one node down: spans were kept by their sender, 300 rows more after its return"
  fi
  spanledger rollup >/dev/null
  spanledger verify >"$work/verify" || { cat "$work/verify"; fail "$1: spanledger verify"; }
  kill "$gateway"; wait "$gateway" 2>/dev/null || true
  gateway=
  docker ps --all --quiet --filter "label=$name" | xargs docker rm --force --volumes >/dev/null
  docker network rm "$name" >/dev/null
}

prove sharded
prove replicated
echo "spanledger verify finds no difference"
