#!/usr/bin/env bash
# One run over hosts that ssh reaches: launch/ssh.sh node1,node2 train ich_segnext --workdir=/shared/run [flags]
# Every host must see this folder under the same path. The first host is the coordinator, at PORT (12345). To check the hosts first:
# launch/ssh.sh node1,node2 doctor --distributed
# Ctrl-C and SIGTERM reach all processes, which save and end; the highest exit code is returned: 42 and 75 mean start again.
set -uo pipefail
[ $# -ge 2 ] || { echo "usage: launch/ssh.sh HOST,HOST,... COMMAND [flags]" >&2; exit 64; }
IFS=, read -r -a hosts <<<"$1"
shift
folder=$(printf '%q' "$PWD")
words=$(printf '%q ' "$@")
# On the host the command ends with its standard input: when this script closes it, or is gone.
remote='exec 3<&0; JAXSEG_COMMAND </dev/null & p=$!; { cat <&3 >/dev/null; kill -TERM $p; } 2>/dev/null & c=$!
  wait $p; code=$?; kill $c 2>/dev/null; exit $code'
pipe=$(mktemp -u) && mkfifo "$pipe" && exec 9<>"$pipe" && exec 8<"$pipe" && rm "$pipe"
trap 'exec 9>&-' INT TERM # the last writer of the pipe
started=()
for i in "${!hosts[@]}"; do
  flags="--coordinator=${hosts[0]}:${PORT:-12345} --num_processes=${#hosts[@]} --process_id=$i"
  ${SSH:-ssh} "${hosts[$i]}" "cd $folder && ${remote/JAXSEG_COMMAND/${JAXSEG:-jaxseg} $words $flags}" <&8 8<&- 9>&- &
  started+=($!)
done
highest=0
for process in "${started[@]}"; do
  while :; do # a signal ends `wait`, not the process
    wait "$process"
    code=$?
    kill -0 "$process" 2>/dev/null || break
  done
  [ "$code" -gt "$highest" ] && highest=$code
done
exit "$highest"
