"""The texts that run on another host: for any POSIX sh, with /proc (data; nothing of a spec is pasted into them).

Besides sh they need cat, date, grep, tr, od, head, awk, wc, mkdir, chmod, mv and rm. Answers are lines of words; text
that could be anything comes as hexadecimal digits. All names begin with ``pc_``, as in the job script.
"""

LARGEST_RECORD = 65_537
"""Bytes of an exit record that are fetched: one more than a real one may have."""

LIBRARY = """\
pc_hex() { od -An -v -tx1 | tr -d ' \\n'; }
# The process of a pid: state, parent, session, start. Its name may hold anything, so all up to its ')' goes.
pc_stat() {
    pc_line=
    { while IFS= read -r pc_part; do pc_line="$pc_line $pc_part"; done <"/proc/$1/stat"; } 2>/dev/null
    [ -n "$pc_line" ] || return 1
    set -- ${pc_line##*) }
    pc_state=$1 pc_parent=$2 pc_session=$4 pc_start=${20}
    case $pc_state in [ZX]) return 1 ;; esac
    [ -n "$pc_start" ]
}
pc_boot=
read -r pc_boot </proc/sys/kernel/random/boot_id
# Whether a pid runs exactly this run dir's job.sh.
pc_runs() {
    pc_words=$(tr '\\0' '\\n' <"/proc/$1/cmdline" 2>/dev/null; echo .)
    case $pc_words in "/bin/sh
$2/job.sh
".) return 0 ;; esac
    return 1
}
# pc_leader RUN PID START BOOT: job.sh by its recorded identity, or else the one that won the claim.
pc_leader() {
    pc_pid=
    if [ "$4" = "$pc_boot" ] && [ -n "$2" ] && pc_stat "$2" && [ "$pc_start" = "$3" ]; then
        pc_pid=$2
        return 0
    fi
    pc_claimed "$1"
    [ -n "$pc_by" ] && pc_stat "$pc_by" && pc_runs "$pc_by" "$1" && pc_pid=$pc_by
}
pc_claimed() {
    pc_by=
    { read -r pc_by <"$1/claim/pid"; } 2>/dev/null
    case $pc_by in *[!0-9]* | ??????????*) pc_by= ;; esac
}
# Living processes that carry this run dir in their environment.
pc_marked() {
    grep -l -F -- "CAMPAIGN_RUN_DIR=$1" /proc/[0-9]*/environ 2>/dev/null | while IFS=/ read -r _ _ pc_one _; do
        pc_has=$(tr '\\0' '\\n' <"/proc/$pc_one/environ" 2>/dev/null; echo .)
        case "
$pc_has" in *"
CAMPAIGN_RUN_DIR=$1
"*) pc_stat "$pc_one" && echo "$pc_one" ;; esac
    done
}
"""

FACTS = """\
pc_word() { printf '%s ' "$1"; printf %s "$2" | pc_hex; echo; }
pc_word home "$HOME"
pc_word path "$PATH"
echo "processors $(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
echo "boot $pc_boot"
echo "clock $(date +%s)"
for pc_one in rsync setsid tmux awk od nvidia-smi; do
    command -v "$pc_one" >/dev/null 2>&1 && echo "has $pc_one"
done
"""

START = """\
pc_start_job() {
    pc_run=$1 pc_checkpoints=$2 pc_script=$3 pc_bytes=$4 pc_code=$5
    [ -z "$pc_code" ] || [ -d "$pc_code" ] || { echo no-code; return; }
    pc_said=$(LC_ALL=C mkdir -p "$pc_checkpoints" "$pc_run" 2>&1) || { pc_failed "$pc_run" "$pc_said"; return; }
    if [ -e "$pc_run/claim" ] || [ -e "$pc_run/status.json" ]; then echo claimed; return; fi
    # Under a name of its own: the start of an orchestrator that was killed may still be on its way here.
    pc_new=$pc_run/job.sh.$$
    # Through cat, for it says why it cannot write; some sh do not.
    pc_said=$(umask 077; { printf %s "$pc_script" | LC_ALL=C cat >"$pc_new"; } 2>&1)
    pc_wrote=$(cat "$pc_new" 2>/dev/null | wc -c)
    if [ "$((pc_wrote))" -ne "$pc_bytes" ]; then
        rm -f "$pc_new"
        pc_failed "$pc_run/job.sh" "${pc_said:-No space left on device?}"
        return
    fi
    pc_said=$({ LC_ALL=C chmod 700 "$pc_new" && LC_ALL=C mv -f "$pc_new" "$pc_run/job.sh"; } 2>&1) ||
        { pc_failed "$pc_run/job.sh" "$pc_said"; return; }
    pc_child=
    pc_launch
    [ -n "$pc_child" ] || return
    if pc_stat "$pc_child" || [ -n "$pc_line" ]; then
        echo "started $pc_child $pc_start $pc_boot"
    else
        echo "started $pc_child - $pc_boot"
    fi
}
pc_failed() { printf 'failed '; printf '%s: %s' "$1" "$2" | pc_hex; echo; }
"""

# In a session of its own by setsid; else nohup, in that of the log-in, which has nothing else in it by then.
PLAIN_LAUNCH = """\
pc_launch() {
    if command -v setsid >/dev/null 2>&1; then
        setsid /bin/sh "$pc_run/job.sh" </dev/null >/dev/null 2>&1 &
    else
        nohup /bin/sh "$pc_run/job.sh" </dev/null >/dev/null 2>&1 &
    fi
    pc_child=$!
}
"""

# As `tmux.start` does it here; `command` uses pc_names.
TMUX_LAUNCH = """\
pc_launch() {{
    command -v tmux >/dev/null 2>&1 || {{ echo no-tmux; return; }}
    pc_names=$({{ env; tmux -L {server} show-environment -g 2>/dev/null; }} |
        sed -n 's/^-\\{{0,1\\}}\\([A-Za-z_][A-Za-z0-9_]*\\).*/\\1/p' | sort -u | tr '\\n' ' ')
    for pc_try in 1 2 3; do
        pc_said=$({command} 2>&1) && pc_child=${{pc_said##*[!0-9]}}
        case $pc_said in *"server exited"* | *"lost server"* | *"no server running"*) ;; *) break ;; esac
    done
    [ -n "$pc_child" ] || {{ printf 'unsure '; printf %s "$pc_said" | pc_hex; echo; }}
}}
"""

SILENCE = """\
# pc_silence RUN: sets pc_silent, for how many seconds nothing was written there, by the clock of those disks alone.
# As launch/queue/silence.py does it: a file server may be late, or this host; but a short silence needs no such care.
pc_silence() {
    pc_silent= pc_last=
    for pc_at in $(stat -L -c %Y "$1/stdout.log" "$1/stderr.log" "$1/metrics.jsonl" 2>/dev/null); do
        [ -n "$pc_last" ] && [ "$pc_last" -ge "$pc_at" ] || pc_last=$pc_at
    done
    [ -n "$pc_last" ] || return
    pc_silent=$(($(date +%s) - pc_last))
    [ "$pc_silent" -lt 0 ] || [ "$pc_silent" -ge 60 ] || return
    pc_on=$(stat -L -c %d "$1" 2>/dev/null)
    if [ "$pc_on" != "$pc_disk" ]; then
        pc_disk=$pc_on pc_ahead=
        pc_at=$({ echo >"$1/.clock.$$" && stat -c %Y "$1/.clock.$$"; } 2>/dev/null)
        [ -z "$pc_at" ] || pc_ahead=$(($(date +%s) - pc_at))
        rm -f "$1/.clock.$$"
    fi
    if [ -n "$pc_ahead" ]; then pc_silent=$((pc_silent - pc_ahead)); else pc_silent=; fi
}
pc_disk=
"""

OBSERVE = (
    SILENCE
    + """\
# pc_quiet RUN: adds that to what pc_is says.
pc_quiet() {
    pc_silence "$1"
    [ -z "$pc_silent" ] || pc_is="$pc_is quiet=$pc_silent"
}
# pc_observe NUMBER RUN PID START BOOT. Whether it lives comes first: a job that ends in between has its record then.
pc_observe() {
    pc_is=over
    pc_leader "$2" "$3" "$4" "$5" && pc_is=alive
    if [ -e "$2/status.json" ]; then
        pc_at=$(stat -c %.9Y "$2/status.json" 2>/dev/null || stat -c %Y "$2/status.json" 2>/dev/null || echo -)
        printf '%s record %s ' "$1" "$pc_at"
        head -c LARGEST <"$2/status.json" 2>/dev/null | pc_hex
        echo
        return
    fi
    [ $pc_is = alive ] || [ -z "$(pc_marked "$2")" ] || pc_is=rest
    [ "$pc_is" = over ] || pc_quiet "$2"
    if [ ! -d "$2" ]; then pc_is="$pc_is no-folder"; elif [ -d "$2/claim" ]; then pc_is="$pc_is claimed"; fi
    echo "$1 $pc_is"
}
""".replace("LARGEST", str(LARGEST_RECORD))
)

FIND = """\
# pc_find RUN: job.sh by its claim, or, before that is written, by its command line.
pc_find() {
    pc_claimed "$1"
    if [ -n "$pc_by" ]; then
        pc_stat "$pc_by" && pc_runs "$pc_by" "$1" && { echo "found $pc_by $pc_start $pc_boot"; return; }
        echo "found $pc_by - $pc_boot"
        return
    fi
    for pc_one in $(grep -l -F -- "$1/job.sh" /proc/[0-9]*/cmdline 2>/dev/null | tr -c '0-9\\n' ' '); do
        pc_stat "$pc_one" && pc_runs "$pc_one" "$1" && { echo "found $pc_one $pc_start $pc_boot"; return; }
    done
    if [ -d "$1/claim" ] || [ -e "$1/status.json" ]; then echo "found - - $pc_boot"; return; fi
    echo none
}
"""

PROCESSES = """\
# All processes as "process PID PARENT SESSION STATE START"; a name with a newline in it does not hide one.
pc_processes() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk '
        { line = (line == "") ? $0 : line " " $0 }
        {
            at = 0
            for (i = length(line); i > 0; i--) if (substr(line, i, 1) == ")") { at = i; break }
            n = at ? split(substr(line, at + 2), f, " ") : 0
            if (n < 20) next
            split(line, pid, " ")
            print "process", pid[1], f[2], f[4], f[1], f[20]
            line = ""
        }'
}
# pc_scan RUN PID START BOOT: job.sh if it lives, else what else of the job does; then all there is.
pc_scan() {
    if pc_leader "$@"; then echo "leader $pc_pid"; else pc_marked "$1" | sed 's/^/marked /'; fi
    pc_processes
    echo end
}
"""

SIGNAL = """\
# Signals go by pid@start: each only to the process that was meant.
pc_is() { pc_stat "${1%@*}" && [ "$pc_start" = "${1#*@}" ]; }
pc_signal() {
    for pc_one in $2; do pc_is "$pc_one" && kill -"$1" "${pc_one%@*}" 2>/dev/null; done
}
# pc_wait NAPS "PID@START ...": until all are gone; tells which are not.
pc_wait() {
    pc_naps=$1
    while :; do
        pc_left=
        for pc_one in $2; do pc_is "$pc_one" && pc_left="$pc_left ${pc_one%@*}"; done
        [ -n "$pc_left" ] && [ "$pc_naps" -gt 0 ] || break
        sleep 0.05 2>/dev/null || sleep 1
        pc_naps=$((pc_naps - 1))
    done
    echo "left$pc_left"
}
"""

SET_ASIDE = """\
pc_aside() {
    pc_n=1
    while [ -e "$1/status.json.damaged-$pc_n" ]; do pc_n=$((pc_n + 1)); done
    mv "$1/status.json" "$1/status.json.damaged-$pc_n" 2>/dev/null
}
"""
