#!/bin/bash
# timeout: 240
# The sockets outlive the daemon: who connects while there is none waits, and is served by the next one. Their files stay the same.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool python3
M=$T/mnt
options=dram=64M,min_idle=1

inodes()
{
	stat -c '%n %i' "$run_dir/attach.sock" "$run_dir/access.sock" "$run_dir/control.sock"
}

# Connects to each socket and asks something; says so, and then what came.
cat >"$T/ask.py" <<'PY'
import os, socket, sys
conns = []
for name, kind, question in (
    ("attach.sock", socket.SOCK_SEQPACKET, b"nonsense"),
    ("access.sock", socket.SOCK_SEQPACKET, b"nonsense"),
    ("control.sock", socket.SOCK_STREAM, b'{"op": "get", "name": "dram"}\n'),
):
    conn = socket.socket(socket.AF_UNIX, kind)
    conn.connect(os.path.join(sys.argv[1], name))
    conn.send(question)
    conns.append((name, conn))
print("connected", flush=True)
for name, conn in conns:
    print(name, "answers" if conn.recv(65536) else "hangs up", flush=True)
PY

# Connects and asks over and over. An answer may be lost with its daemon, a connection is not refused.
cat >"$T/knock.py" <<'PY'
import os, socket, sys
answers = lost = 0
while not os.path.exists(sys.argv[2]):
    conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    conn.connect(os.path.join(sys.argv[1], "control.sock"))
    try:
        conn.send(b'{"op": "get", "name": "dram"}\n')
        got = conn.recv(65536)
    except (ConnectionResetError, BrokenPipeError):
        got = b""
    answers += bool(got)
    lost += not got
    conn.close()
    print(answers, lost, flush=True)
PY

# The holder of this mount: the one that listens there.
holder_fds()
{
	local inode fd
	inode=$(awk -v path="$run_dir/holder.sock" '$8 == path && $6 == "01" { print $7 }' /proc/net/unix)
	fd=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null)
	find "${fd%/*}" -mindepth 1 | wc -l
}

nothing_listens()
{
	[ ! -e "$run_dir" ] && ! grep -qF "$run_dir" /proc/net/unix
}

tierfs_start "$T/pool" "$M" "$options"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
before=$(inodes)

note "a client connects while there is no daemon"
for round in 1 2 3; do
	kill_daemon "$tierfs_pid"
	: >"$T/ask.log"
	start_process "$T/ask.log" python3 "$T/ask.py" "$run_dir"
	asker=$started_pid
	wait_for 10 grep -qx connected "$T/ask.log" || fail "no connection without a daemon: $(cat "$T/ask.log")"
	alive "$asker" || fail "the client does not wait"
	tierfs_start "$T/pool" "$M" "$options"
	wait_for 20 gone "$asker" || fail "nobody answers who waited: $(cat "$T/ask.log")"
	assert_eq "$(cat "$T/ask.log")" $'connected\nattach.sock answers\naccess.sock answers\ncontrol.sock answers' "round $round"
	assert_eq "$(inodes)" "$before" "files of the sockets after takeover $round"
done
assert_eq "$(grep -c 'is not used' "$T/tierfs.log")" 0 "sockets that were refused"

note "what lies in the place of a socket that was kept is another one"
kill_daemon "$tierfs_pid"
rm "$run_dir/attach.sock" "$run_dir/access.sock"
mkfifo "$run_dir/access.sock"
tierfs_start "$T/pool" "$M" "$options"
assert_eq "$(grep -c 'attach.sock: the socket that was kept is not used' "$T/tierfs.log")" 1 warnings
assert_eq "$(grep -c 'access.sock: the socket that was kept is not used' "$T/tierfs.log")" 1 warnings
assert_eq "$(inodes | tail -n 1)" "$(tail -n 1 <<<"$before")" "file of the control socket"
: >"$T/ask.log"
python3 "$T/ask.py" "$run_dir" >>"$T/ask.log" || fail "the new sockets do not answer"
assert_eq "$(grep -c answers "$T/ask.log")" 3 "sockets that answer"
before=$(inodes)
kill_daemon "$tierfs_pid"
tierfs_start "$T/pool" "$M" "$options"
assert_eq "$(inodes)" "$before" "files of the new sockets"
tierfs_stop "$M"
wait_for 20 nothing_listens || fail "something is left: $(ls "$run_dir"; grep -F "$run_dir" /proc/net/unix)"

note "clients come all the time while the holder starts new daemons, and while the program is replaced"
tierfs -o "$options" "$T/pool" "$M" || fail "cannot mount"
cleanup_push unmount "$M"
before=$(inodes)
fds=$(holder_fds)
: >"$T/knock.log"
start_process "$T/knock.log" python3 "$T/knock.py" "$run_dir" "$T/enough"
knocker=$started_pid
answers() { tail -n 1 "$T/knock.log" | sed 's/ .*//'; }
more() { [ "$(answers)" -gt "$1" ]; }
wait_for 20 more 0 || fail "nobody answers: $(cat "$T/knock.log")"
for round in 1 2 3; do
	pid=$(daemon_pid)
	kill_daemon "$pid"
	wait_for 30 is_replaced "$pid" || fail "no new daemon"
	stat "$M" >/dev/null || fail "the mount does not answer"
	wait_for 20 more "$(answers)" || fail "nobody answers after kill $round: $(tail -n 2 "$T/knock.log")"
	assert_eq "$(inodes)" "$before" "files of the sockets after kill $round"
done
for round in 1 2; do
	assert_ok tierctl upgrade "$M"
	wait_for 20 more "$(answers)" || fail "nobody answers after upgrade $round: $(tail -n 2 "$T/knock.log")"
	assert_eq "$(inodes)" "$before" "files of the sockets after upgrade $round"
done
assert_eq "$(holder_fds)" "$fds" "descriptors of the holder"
touch "$T/enough"
wait_for 20 gone "$knocker" || fail "the client hangs"
wait "$knocker" || fail "a connection was refused: $(tail -n 3 "$T/knock.log")"
note "$(tail -n 1 "$T/knock.log" | sed 's/ / answers, lost: /')"
umount "$M" || fail "cannot unmount"
wait_for 20 nothing_listens || fail "something is left: $(ls "$run_dir"; grep -F "$run_dir" /proc/net/unix)"
