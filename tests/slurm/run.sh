#!/usr/bin/env bash
# bash tests/slurm/run.sh [PROGRAM [TEST]]: tests/slurm/jobs.lua against a real SLURM: munged, slurmctld and two slurmd, which are
# two machines to SLURM, in a private folder and on this machine's loopback; all of it is gone at the end.
# Exit 77 where SLURM is not installed.
set -u
cd "$(dirname "$(readlink -f "$0")")/../.." || exit 1
PATH=$PATH:/usr/sbin:/sbin
program=$(readlink -f "${1-build/ijepa}")
for command in munged slurmctld slurmd sbatch srun scontrol squeue sinfo scancel; do
  command -v "$command" >/dev/null || { echo "SKIPPED: $command is not installed (Debian: slurmctld slurmd slurm-client munge)"; exit 77; }
done
[ -x "$program" ] || { echo "'$program' is not there: build it first"; exit 1; }

d=$(mktemp -d) || exit 1
export SLURM_CONF=$d/slurm.conf

# What was started here carries SLURM_CONF in its environment, tasks of jobs too.
ours() {
  local file pid
  for file in /proc/[0-9]*/environ; do
    pid=${file//[!0-9]/}
    [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ] || ! grep -qsF "SLURM_CONF=$SLURM_CONF" "$file" || echo "$pid"
  done
}

finish() {
  local status=$? pids try
  trap - EXIT INT TERM HUP
  [ "$status" = 0 ] || grep -h -e error: -e fatal: "$d"/*.log 2>/dev/null | tail -n 20
  for signal in TERM TERM KILL; do
    pids=$(ours)
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086
    kill -$signal $pids 2>/dev/null
    for try in $(seq 20); do [ -n "$(ours)" ] || break; sleep .1; done
  done
  rm -rf "$d"
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP

# A port that nobody listens on, and the two after it.
free_port() {
  local port
  for port in $(seq $((20000 + $$ % 9000)) 3 32000); do
    (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || (: >"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null ||
      (: >"/dev/tcp/127.0.0.1/$((port + 2))") 2>/dev/null || { echo "$port"; return; }
  done
}

configure() {
  local host user port
  host=$(uname -n) user=$(id -un) port=$(free_port)
  host=${host%%.*}
  chmod 755 "$d"   # the socket of munged must be within reach
  mkdir -p "$d/state" "$d"/spool.n{1,2} "$d"/tmp.n{1,2}
  (umask 077 && head -c 256 /dev/urandom >"$d/munge.key")
  cat >"$SLURM_CONF" <<END
ClusterName=ijepa
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$d/munge.socket,cred_expire=5   # also how long a job that is queued again waits
StateSaveLocation=$d/state
SlurmdSpoolDir=$d/spool.%n
TmpFS=$d/tmp.%n
SlurmctldPidFile=$d/slurmctld.pid
SlurmdPidFile=$d/slurmd.%n.pid
SlurmctldLogFile=$d/slurmctld.log
SlurmdLogFile=$d/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MinJobAge=600
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=30 DefaultTime=10
PartitionName=abrupt Nodes=n1,n2 PriorityTier=1 DefaultTime=10
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF DefaultTime=10
END
}

configure
munged --socket="$d/munge.socket" --key-file="$d/munge.key" --pid-file="$d/munged.pid" --log-file="$d/munged.log" \
  --seed-file="$d/munged.seed" && slurmctld -c && slurmd -N n1 && slurmd -N n2 || { echo "SLURM did not start"; exit 1; }
for try in $(seq 100); do
  [ "$(sinfo -h -p low -t idle -o %D 2>/dev/null)" = 2 ] && break
  [ "$try" -lt 100 ] || { sinfo; echo "SLURM did not come up"; exit 1; }
  sleep .2
done
IJEPA_PROGRAM=$program IJEPA_SLURM_FOLDER=$d timeout 400 "$program" tests/lua/run.lua ${2+-p "$2"} tests/slurm/jobs.lua &
wait $!   # so that a signal to this shell takes all down at once
