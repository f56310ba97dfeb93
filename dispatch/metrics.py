"""What is counted: every series of this product, by name (PHASE2 12; prefix `scheduler_`), with bounded labels."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

redis_ops = Counter("scheduler_phase2_redis_op_total", "Redis commands by result.", ["result"])
redis_ops.labels("ok")
redis_ops.labels("err")

presence_heartbeats = Counter("scheduler_phase2_presence_heartbeat_total", "Life signs of this instance.", ["result"])
owner_conflicts = Counter(
    "scheduler_owner_conflicts_total", "Sockets closed because a later connection of the peer has taken over.", ["kind"]
)
renew_lag = Gauge("scheduler_renew_lag_seconds", "How much later than planned the last round of owner renewals ended.")
inbox_events = Counter("scheduler_inbox_events_total", "Envelopes by what became of them.", ["kind", "outcome"])
inbox_retries = Counter("scheduler_inbox_retries_total", "Deliveries that failed and are tried again.", ["kind"])
inbox_pending = Gauge("scheduler_phase2_inbox_pending", "Envelopes in hand: read and not yet dealt with.")
inbox_oldest = Gauge("scheduler_inbox_oldest_seconds", "Age of the oldest envelope in hand; 0 when there is none.")
inbox_lag = Gauge("scheduler_inbox_lag", "Envelopes in the inbox that are not read yet.")
dlq = Counter("scheduler_dlq_total", "Envelopes that could not be delivered, by reason.", ["reason"])
dlq_moved = Counter("scheduler_phase2_dlq_moved_total", "Envelopes moved to the dead letters.")
dlq_displaced = Counter("scheduler_dlq_displaced_total", "Dead letters that made room for newer ones.")
role_ran = Gauge("scheduler_role_last_ran_timestamp_seconds", "When this role last ended a turn, Unix time.", ["role"])
role_restarts = Counter("scheduler_role_restarts_total", "Roles restarted after an unexpected error.", ["role"])
role_waits = Counter("scheduler_role_dependency_down_total", "Turns that Redis did not answer.", ["role"])

sockets_opened = Counter("scheduler_sockets_opened_total", "Sockets accepted.", ["kind"])
sockets_closed = Counter("scheduler_sockets_closed_total", "Sockets closed, by either side.", ["kind"])
sockets_refused = Counter(
    "scheduler_sockets_refused_total", "Sockets sent away: draining, or the limit is reached.", ["kind"]
)
sockets_cut = Counter(
    "scheduler_sockets_cut_total", "Sockets dropped by us: silent, or not reading.", ["kind", "reason"]
)
pulses_lost = Counter("scheduler_pulses_lost_total", "Sockets that stopped answering pings.", ["kind"])
fenced = Counter("scheduler_sockets_fenced_total", "Sockets closed because the peer has a later connection.", ["kind"])
frames_refused = Counter("scheduler_frames_refused_total", "Frames that were not taken, by reason.", ["kind", "reason"])
registrations = Counter("scheduler_node_registrations_total", "Registrations by what became of them.", ["result"])
submissions = Counter("scheduler_reserve_attempt_total", "Jobs handed to a cell, by its answer.", ["result"])
dispatch_latency = Histogram(
    "scheduler_dispatch_latency_seconds", "Time of one dispatch decision: bind and submit.", buckets=_SECONDS
)
duplicate_requests = Counter("scheduler_duplicate_requests_total", "Requests that were known already.")
resubmitted = Counter("scheduler_jobs_resubmitted_total", "Jobs submitted again because their cell had lost them.")
assignments = Counter("scheduler_assignments_total", "Leases at the owner connection: sent, or why not.", ["result"])
node_answers = Counter("scheduler_node_answers_total", "Answers of nodes by what they were worth.", ["result"])
utterances_cut = Counter("scheduler_web_task_finalized_total", "Utterances cut from audio, by reason.", ["reason"])
utterances_ended = Counter("scheduler_utterances_ended_total", "Terminal events, by outcome.", ["outcome"])
utterance_seconds = Histogram(
    "scheduler_utterance_seconds", "From the acceptance of an utterance to its terminal event.", buckets=_SECONDS
)
late_ends = Counter("scheduler_late_ends_total", "Ends of utterances that had ended before: the first one wins.")
envelopes = Counter("scheduler_envelopes_total", "Envelopes to other instances.", ["kind", "result"])
due_steps = Counter("scheduler_due_steps_total", "Overdue steps repaired.")
tasks_failed = Counter("scheduler_tasks_failed_total", "Work that ended with an error nobody expected.", ["owner"])
cell_faults = Counter("scheduler_cell_faults_total", "Figures of a cell that its audit found untrue.")
