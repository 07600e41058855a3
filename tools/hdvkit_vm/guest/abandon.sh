#!/bin/sh
# Tells what is known about command ID, which the host no longer waits for, and kills it as far as it can be.
job=/run/agent/$1
[ -e "$job/group" ] || exit 0 # it has just ended
group=$(cat "$job/group")
cat "$job/output"
for process in /proc/[0-9]*; do
	# pid (name) state parent group …, where the name may hold blanks; no programs, for there are many processes
	read -r fields <"$process/stat" || continue
	set -- ${fields##*) }
	if [ "$3" = "$group" ]; then
		echo "--- $(tr '\0' ' ' <"$process/cmdline") (state $1, process ${process#/proc/})"
		cat "$process/stack"
	fi
done 2>/dev/null
kill -9 "-$group"
