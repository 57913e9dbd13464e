"""Celery's signals and what stands for each: data of ``hooks.md``."""

#: Signal, hook or "" if there is none, and what to know.
Row = tuple[str, str, str]

SIGNALS: tuple[Row, ...] = (
    ("before_task_publish", "kern_before_publish", "a batch; replacing an item of the list changes what is sent"),
    ("after_task_publish", "kern_after_publish", "a batch, once the broker has confirmed it"),
    ("task_received", "kern_received", "a batch, in the worker's main process"),
    ("task_prerun", "kern_task_prerun", ""),
    ("task_postrun", "kern_task_postrun", ""),
    ("task_success", "kern_task_success", ""),
    ("task_retry", "kern_task_retry", "a task interrupted by a stopping worker is no retry and is not reported"),
    ("task_failure", "kern_task_failure", ""),
    ("task_internal_error", "kern_task_internal_error", ""),
    ("task_revoked", "kern_settled", "outcomes whose `state` is `REVOKED`"),
    ("task_rejected", "kern_settled", "outcomes whose `state` is `REJECTED`"),
    ("task_unknown", "kern_settled", "outcomes whose disposition is `Quarantine` with the reason `unknown-task`"),
    ("task_sent", "kern_after_publish", "deprecated in Celery"),
    ("celeryd_init", "kern_worker_init", "settings are changed before a worker is made: `kern_configured`"),
    ("celeryd_after_setup", "kern_worker_init", "the worker has its queues by then"),
    ("import_modules", "kern_import_modules", ""),
    ("worker_init", "kern_worker_init", ""),
    ("worker_before_create_process", "", "how processes are made is the pool plugin's affair"),
    (
        "worker_process_init",
        "kern_process_init",
        "called by pools that have processes, such as `kern-pool-prefork` will",
    ),
    (
        "worker_process_shutdown",
        "kern_process_shutdown",
        "called by pools that have processes, such as `kern-pool-prefork` will",
    ),
    ("worker_ready", "kern_worker_ready", ""),
    ("worker_shutting_down", "kern_worker_stopping", ""),
    ("worker_shutdown", "kern_worker_stopped", ""),
    ("heartbeat_sent", "", "heartbeats renew leases; for a tick of your own give the worker a service"),
    ("setup_logging", "", "kern does not touch the root logger: [how to log](../how-to/log.md)"),
    ("after_setup_logger", "", "attach handlers to the logger `kern` yourself: [how to log](../how-to/log.md)"),
    ("after_setup_task_logger", "", "the same"),
    ("beat_init", "kern_services", "a scheduler is a service; the one that starts it knows when it starts"),
    ("beat_embedded_init", "kern_services", "the same"),
    ("eventlet_pool_started", "", "there is no eventlet pool"),
    ("eventlet_pool_preshutdown", "", "there is no eventlet pool"),
    ("eventlet_pool_postshutdown", "", "there is no eventlet pool"),
    ("eventlet_pool_apply", "", "there is no eventlet pool"),
    ("user_preload_options", "kern_command_options", "options of your own: `kern_options`"),
)

#: Signals of the application object.
APPLICATION_SIGNALS: tuple[Row, ...] = (
    ("app.on_configure", "kern_configured", ""),
    ("app.on_after_configure", "kern_configured", ""),
    ("app.on_after_finalize", "kern_finalized", ""),
    ("app.on_after_fork", "kern_process_init", "connections notice a fork by themselves and are made anew"),
)
