#!/bin/bash
# A real Slurm on this one machine, for tests: munge, slurmctld and slurmd with everything in one
# temporary folder. Needs root and Debian's packages slurm-wlm and munge.
#
#   tests/cluster/slurm.sh FOLDER      starts it, says "ready", stops it when stdin ends
#
# Partitions: "low" (default), whose jobs those of "high" preempt: they are requeued.
set -eu

folder=$1
mkdir -p "$folder"/{state,spool,log,munge}
folder=$(cd "$folder" && pwd)
host=$(hostname -s)
cores=$(nproc)
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
controller=$((20000 + RANDOM % 10000))
daemon=$((controller + 1))
chmod 755 "$folder"

dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chmod 400 "$folder/munge/key"
chmod 755 "$folder/munge"

cat > "$folder/slurm.conf" <<EOF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$daemon
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
MaxArraySize=100
KillWait=30
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10
EOF

export SLURM_CONF="$folder/slurm.conf"
started=()
stop() {
    scancel --user=root 2>/dev/null || true
    sleep 1
    for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
    sleep 1
    for process in "${started[@]}"; do kill -9 "$process" 2>/dev/null || true; done
}
trap stop EXIT

munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" \
    --seed-file="$folder/munge/seed" > "$folder/log/munged.log" 2>&1 &
started+=($!)
for _ in $(seq 100); do [ -S "$folder/munge/socket" ] && break; sleep 0.2; done
slurmctld -D -c > "$folder/log/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D -N "$host" > "$folder/log/slurmd.out" 2>&1 &
started+=($!)

for _ in $(seq 300); do
    if [ "$(sinfo --noheader --partition=low --format=%T 2>/dev/null)" = idle ]; then
        echo ready
        cat > /dev/null  # until whoever started this closes stdin
        exit 0
    fi
    sleep 0.4
done
echo "Slurm did not start; its logs:" >&2
tail -n 20 "$folder"/log/* "$folder/munge/log" >&2
exit 1
