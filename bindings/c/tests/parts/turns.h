/* Several threads at one generator, and what callbacks say of their failures. */

struct asker {
    sftmix_generator *generator;
    _Atomic bool asks, holds;
    _Atomic int pieces;
    sftmix_status status;
    sftmix_generation said;
};

static bool hold(void *user_data, const char *piece)
{
    struct asker *a = user_data;
    a->pieces += piece != NULL;
    while (a->holds)
        nap(0.001);
    return true;
}

static void *ask(void *user_data)
{
    struct asker *a = user_data;
    sftmix_generate_options o;
    sftmix_generate_options_init(&o);
    o.max_new_tokens = 100;
    sftmix_generation_init(&a->said);
    a->asks = true;
    a->status = sftmix_generator_generate(a->generator, "Question:", &o, hold, a, &a->said);
    return NULL;
}

/* One that has its turn and holds it in its first piece, and one that waits behind it. */
static bool two_ask(struct asker *first, struct asker *second, pthread_t threads_of[2])
{
    first->holds = true;
    if (pthread_create(&threads_of[0], NULL, ask, first))
        return false;
    while (!first->pieces)
        nap(0.001);
    if (pthread_create(&threads_of[1], NULL, ask, second))
        return false;
    while (!second->asks)
        nap(0.001);
    /* It asks in a moment. */
    nap(brief ? 2 : 0.3);
    return true;
}

static bool both_end(struct asker *first, pthread_t threads_of[2])
{
    first->holds = false;
    return pthread_join(threads_of[0], NULL) == 0 && pthread_join(threads_of[1], NULL) == 0;
}

static void t_turns(void)
{
    sftmix_model *model = NULL;
    sftmix_generator *generator = NULL;
    OK(sftmix_model_open(demo, &model));
    OK(sftmix_generator_open(model, "cpu", threads, &generator));
    OK(sftmix_model_free(model));
    pthread_t threads_of[2];
    /* One cancel ends what was asked for, and is not lost on who came to its turn later. */
    struct asker first = {.generator = generator}, second = {.generator = generator};
    MUST(two_ask(&first, &second, threads_of));
    OK(sftmix_generator_cancel(generator));
    MUST(both_end(&first, threads_of));
    OK(first.status);
    OK(second.status);
    MUST(first.said.cancelled && first.said.new_tokens == 1 && first.pieces == 1);
    MUST(second.said.cancelled && second.said.new_tokens == 0 && second.pieces == 0 && strcmp(second.said.text, "") == 0);
    sftmix_generation_free(&first.said);
    sftmix_generation_free(&second.said);
    /* What is asked for behind it is not touched. */
    sftmix_generate_options o;
    sftmix_generate_options_init(&o);
    o.max_new_tokens = 2;
    sftmix_generation g;
    sftmix_generation_init(&g);
    OK(sftmix_generator_generate(generator, "Question:", &o, NULL, NULL, &g));
    MUST(!g.cancelled && g.new_tokens == 2);
    sftmix_generation_free(&g);
    /* Freed, while one generates and one waits: the one ends, the other does not begin. */
    first = (struct asker){.generator = generator};
    second = (struct asker){.generator = generator};
    MUST(two_ask(&first, &second, threads_of));
    OK(sftmix_generator_free(generator));
    MUST(both_end(&first, threads_of));
    OK(first.status);
    MUST(first.said.cancelled && first.said.new_tokens == 1);
    MUST(second.status == SFTMIX_STATUS_INVALID_HANDLE && second.pieces == 0 && second.said.text == NULL);
    sftmix_generation_free(&first.said);
}

struct says {
    const char *reason;
    bool answer;
    int calls;
};

static bool say_and_answer(void *user_data, const char *piece)
{
    struct says *s = user_data;
    s->calls += piece != NULL;
    sftmix_callback_failed(s->reason);
    return s->answer;
}

static const char *no_row(void *user_data, bool *failed)
{
    (void)failed;
    sftmix_callback_failed(user_data);
    return NULL;
}

/* A reason is that of the callback that said it and failed, and of no other. */
static void t_reasons(void)
{
    sftmix_model *model = NULL;
    sftmix_generator *generator = NULL;
    OK(sftmix_model_open(demo, &model));
    OK(sftmix_generator_open(model, "cpu", threads, &generator));
    OK(sftmix_model_free(model));
    sftmix_generate_options o;
    sftmix_generate_options_init(&o);
    o.max_new_tokens = 2;
    sftmix_generation g;
    sftmix_generation_init(&g);
    struct says s = {.reason = "no more room"};
    IS(CALLBACK, sftmix_generator_generate(generator, "Question:", &o, say_and_answer, &s, &g));
    MUST(strcmp(sftmix_last_error_field("reason"), "no more room") == 0 && s.calls == 1 && g.text == NULL);
    /* It answers that it did not fail. */
    s.answer = true;
    OK(sftmix_generator_generate(generator, "Question:", &o, say_and_answer, &s, &g));
    MUST(!g.cancelled && g.new_tokens == 2);
    sftmix_generation_free(&g);
    /* Said by nobody, and by a row source that did not fail: neither is the reason of a text that is only ended. */
    sftmix_callback_failed("stale");
    sftmix_train_options t = quick("no-rows");
    t.data = NULL;
    sftmix_job *job = NULL;
    OK(sftmix_job_new_with_rows(&t, NULL, no_row, "stale, too", &job));
    IS(NOTHING_TO_TRAIN, sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    s = (struct says){0};
    OK(sftmix_generator_generate(generator, "Question:", &o, say_and_answer, &s, &g));
    MUST(g.cancelled && g.new_tokens == 1);
    sftmix_generation_free(&g);
    OK(sftmix_generator_free(generator));
}

static void t_ranges(void)
{
    sftmix_model *model = NULL;
    sftmix_generator *generator = NULL;
    OK(sftmix_model_open(demo, &model));
    const int64_t bad_threads[] = {0, 1025, 50000, -2};
    for (int i = 0; i < 4; i++) {
        IS(INVALID_CONFIG, sftmix_generator_open(model, "cpu", bad_threads[i], &generator));
        MUST(strcmp(sftmix_last_error_field("field"), "threads") == 0);
        sftmix_export_options e;
        sftmix_export_options_init(&e);
        e.run = in_work("plain");
        e.formats = "peft";
        e.threads = bad_threads[i];
        IS(INVALID_CONFIG, sftmix_export(&e, NULL, NULL));
        MUST(strcmp(sftmix_last_error_field("field"), "threads") == 0);
        e.formats = NULL;
        e.out = in_work("merged-never");
        IS(INVALID_CONFIG, sftmix_merge(&e, NULL, NULL));
        MUST(strcmp(sftmix_last_error_field("field"), "threads") == 0);
    }
    OK(sftmix_generator_open(model, "cpu", threads, &generator));
    OK(sftmix_model_free(model));
    const struct { double temperature, top_p, min_p, penalty; int64_t top_k, most; const char *field; } bad[] = {
        {-1, NAN, NAN, NAN, SFTMIX_UNSET, SFTMIX_UNSET, "temperature"},
        {INFINITY, NAN, NAN, NAN, SFTMIX_UNSET, SFTMIX_UNSET, "temperature"},
        {NAN, 0, NAN, NAN, SFTMIX_UNSET, SFTMIX_UNSET, "top_p"},
        {NAN, 1.5, NAN, NAN, SFTMIX_UNSET, SFTMIX_UNSET, "top_p"},
        {NAN, NAN, -0.5, NAN, SFTMIX_UNSET, SFTMIX_UNSET, "min_p"},
        {NAN, NAN, NAN, 0, SFTMIX_UNSET, SFTMIX_UNSET, "repetition_penalty"},
        {NAN, NAN, NAN, NAN, 0, SFTMIX_UNSET, "top_k"},
        {NAN, NAN, NAN, NAN, SFTMIX_UNSET, 0, "max_new_tokens"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sftmix_generate_options o;
        sftmix_generate_options_init(&o);
        o.temperature = bad[i].temperature;
        o.top_p = bad[i].top_p;
        o.min_p = bad[i].min_p;
        o.repetition_penalty = bad[i].penalty;
        o.top_k = bad[i].top_k;
        o.max_new_tokens = bad[i].most;
        IS(INVALID_CONFIG, sftmix_generator_generate(generator, "Question:", &o, NULL, NULL, NULL));
        MUST(strcmp(sftmix_last_error_field("field"), bad[i].field) == 0);
    }
    OK(sftmix_generator_free(generator));
}
