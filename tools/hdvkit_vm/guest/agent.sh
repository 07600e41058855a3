#!/bin/sh
# The guest's end of the command channel on the second serial port. The host's end is agent.py.
#
# From the host, a line for each command:  ID BASE64-OF-A-SCRIPT
# To the host, when it has been read:      !            (anywhere; the host must wait for it before the next line)
# Again, if the host sends an empty line because that was lost.
# To the host, once after each boot:       @ready BOOT-ID
# To the host, when a script has ended:    =ID CODE BASE64-OF-ITS-OUTPUT
#
# Each script runs by itself in the background, so one that hangs in the kernel holds up nobody.

jobs=/run/agent
mkdir -p $jobs

# Whose turn it is to write: one line in a pipe is the token, and reading it waits without polling.
mkfifo $jobs/turn
exec 8<>$jobs/turn
echo >&8

exec 9<>/dev/ttyS1
stty raw -echo -echoe -echok -hupcl clocal 115200 <&9

run() {
	job=$jobs/$1
	mkdir "$job"
	echo "$2" | base64 -d >"$job/script"
	# A session of its own: the host kills what outlived its time by the process group.
	setsid sh "$job/script" </dev/null >"$job/output" 2>&1 8>&- 9>&- &
	echo $! >"$job/group"
	wait $!
	code=$?
	read -r turn <&8
	{
		printf '=%s %s ' "$1" $code
		base64 -w 0 "$job/output"
		echo
	} >&9
	echo >&8
	rm -rf "$job"
}

# The empty line ends whatever the port carried before.
printf '\n@ready %s\n' "$(cat /proc/sys/kernel/random/boot_id)" >&9

# Not "read": it forgets half a line when a child ends meanwhile, and takes a system call for each byte. What head reads
# beyond the line would be lost, hence the rule that the host waits.
while line=$(head -n 1 <&9); do
	printf '!' >&9
	[ -n "$line" ] && run "${line%% *}" "${line#* }" &
done
