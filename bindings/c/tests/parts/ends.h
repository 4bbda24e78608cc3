/* How jobs and evaluations come to an end: waited for, freed at odd moments, broken off. */

static sftmix_job *logged_job;
static _Atomic int log_refusals, log_others;

static void free_in_log(void *user_data, int level, const char *target, const char *message)
{
    (void)user_data, (void)level, (void)target, (void)message;
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    if (strcmp(name, "sftmix-job") != 0 && strcmp(name, "sftmix-events") != 0)
        return;
    bool ended = true;
    bool refused = sftmix_job_free(logged_job) == SFTMIX_STATUS_MISUSE;
    refused &= sftmix_job_wait(logged_job, -1, &ended, NULL) == SFTMIX_STATUS_MISUSE && !ended;
    *(refused ? &log_refusals : &log_others) += 1;
}

/* The log callback is no callback of the job, but may be called on its thread. */
static void t_free_in_log(void)
{
    sftmix_train_options o = quick("log-free");
    OK(sftmix_job_new(&o, NULL, &logged_job));
    OK(sftmix_set_log_callback(5, free_in_log, NULL));
    OK(sftmix_job_start(logged_job));
    sftmix_status status = sftmix_job_wait(logged_job, -1, NULL, NULL);
    OK(sftmix_set_log_callback(0, NULL, NULL));
    OK(status);
    MUST(log_refusals > 0 && log_others == 0);
    OK(sftmix_job_free(logged_job));
}

struct again {
    sftmix_job *job;
    _Atomic bool freed;
    _Atomic int runs, told_behind, odd;
};

static int listen_again(void *user_data, const sftmix_event *event)
{
    struct again *a = user_data;
    a->told_behind += a->freed && event->kind != SFTMIX_EVENT_KIND_NONE;
    return SFTMIX_CONTINUE;
}

static void *run_again(void *user_data)
{
    struct again *a = user_data;
    for (;;) {
        sftmix_status status = sftmix_job_run(a->job, NULL);
        a->runs++;
        if (status == SFTMIX_STATUS_INVALID_HANDLE)
            return NULL;
        if (status != SFTMIX_STATUS_OK && status != SFTMIX_STATUS_STOPPED && status != SFTMIX_STATUS_MISUSE)
            a->odd++;
    }
}

/* However a thread that holds the job and one that frees it meet: nothing runs when it was freed. */
static void t_freed_for_good(void)
{
    MUST(plain_run());
    for (int i = 0; i < 20; i++) {
        struct again a = {0};
        OK(sftmix_job_resume(in_work("plain"), NULL, NULL, &a.job));
        OK(sftmix_job_set_listener(a.job, listen_again, &a));
        pthread_t other;
        MUST(pthread_create(&other, NULL, run_again, &a) == 0);
        nap(0.002 * i);
        sftmix_status status = sftmix_job_free(a.job);
        a.freed = true;
        MUST(pthread_join(other, NULL) == 0);
        OK(status);
        MUST(a.runs > 0 && a.told_behind == 0 && a.odd == 0);
        IS(INVALID_HANDLE, sftmix_job_free(a.job));
    }
}

static void t_wait_idle(void)
{
    sftmix_train_options o = quick("idle");
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, NULL, &job));
    bool ended = true, finished = true;
    IS(MISUSE, sftmix_job_wait(job, 1000, &ended, NULL));
    MUST(!ended);
    /* Between two slices it has not ended. */
    OK(sftmix_job_run_slice(job, 0, &finished, NULL));
    ended = true;
    IS(MISUSE, sftmix_job_wait(job, -1, &ended, NULL));
    MUST(!ended && !finished);
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_wait(job, 0, &ended, NULL));
    MUST(ended);
    OK(sftmix_job_free(job));
}

/* The model that is open stands for the one that the settings would name, also where a run is to be taken up. */
static void t_resume_model(void)
{
    MUST(plain_run());
    sftmix_model *model = NULL;
    sftmix_job *job = NULL;
    OK(sftmix_model_open(demo, &model));
    const char *settings = say("\"data\":\"%s\",\"recipe\":\"ntp\",\"device\":\"cpu\",\"warmup_ratio\":0,\"max_steps\":%u,\"batch_size\":4,"
                               "\"max_length\":64,\"threads\":%u,\"seed\":7,\"save_every\":2}", train_rows, steps_of_run, threads);
    IS(INVALID_CONFIG, sftmix_job_resume(in_work("begun"), say("{\"model\":\"%s\",%s", demo, settings), model, &job));
    MUST(strcmp(sftmix_last_error_field("field"), "model") == 0 && has(sftmix_last_error(), "twice"));
    OK(sftmix_job_resume(in_work("begun"), say("{\"model\":null,%s", settings), model, &job));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("plain", "begun"));
    OK(sftmix_job_resume(in_work("begun"), NULL, model, &job));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    OK(sftmix_model_free(model));
}

static void *stop_soon(void *stop)
{
    nap(0.02);
    return (void *)(intptr_t)sftmix_stop_handle_stop(stop);
}

static void t_stop_evaluation(void)
{
    sftmix_eval_options e;
    sftmix_eval_options_init(&e);
    e.model = demo;
    e.data = train_rows;
    e.device = "cpu";
    e.threads = 1;
    e.batch_size = 1;
    e.cache_dir = in_work("cache");
    sftmix_stop_handle *stop = NULL;
    OK(sftmix_stop_handle_new(&stop));
    e.stop = stop;
    sftmix_evaluation whole;
    sftmix_evaluation_init(&whole);
    double before = now();
    OK(sftmix_evaluate(&e, NULL, &whole, NULL));
    double takes = now() - before;
    MUST(whole.examples == rows_of_run);
    pthread_t other;
    MUST(pthread_create(&other, NULL, stop_soon, stop) == 0);
    before = now();
    sftmix_status status = sftmix_evaluate(&e, NULL, NULL, NULL);
    printf("    broken off after %.3f s of %.3f s\n", now() - before, takes);
    void *answer = &answer;
    MUST(pthread_join(other, &answer) == 0 && answer == NULL);
    MUST(status == SFTMIX_STATUS_STOPPED);
    /* It stays used. */
    IS(STOPPED, sftmix_evaluate(&e, NULL, NULL, NULL));
    OK(sftmix_stop_handle_free(stop));
    IS(INVALID_HANDLE, sftmix_evaluate(&e, NULL, NULL, NULL));
    IS(INVALID_HANDLE, sftmix_stop_handle_stop(stop));
    OK(sftmix_stop_handle_free(NULL));
}
