/* Structures of other sizes than the library's: a program may be compiled against an earlier header, or a later one. */

static bool all_are(const unsigned char *bytes, size_t count, unsigned char value)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

static void t_sizes(void)
{
    MUST(plain_run());
    /* Room for any of them, and something behind that is not theirs. */
    enum { ROOM = 2048, CANARY = 0xab };
    unsigned char *room = malloc(ROOM);
    memset(room, CANARY, ROOM);
    sftmix_train_options *o = (void *)room;
    const size_t earlier = offsetof(sftmix_train_options, seed), later = sizeof *o + 32;
    sftmix_train_options_init_sized(o, earlier);
    MUST(o->struct_size == earlier && o->model == NULL && o->max_steps == SFTMIX_UNSET);
    MUST(all_are(room + earlier, ROOM - earlier, CANARY));
    o->model = demo;
    o->data = train_rows;
    o->out = in_work("earlier");
    sftmix_job *job = NULL;
    OK(sftmix_job_new(o, NULL, &job));
    OK(sftmix_job_free(job));
    MUST(all_are(room + earlier, ROOM - earlier, CANARY));
    /* What a later header has more is zero, and options with more than the library knows are refused. */
    sftmix_train_options_init_sized(o, later);
    MUST(o->struct_size == later && o->epochs == SFTMIX_UNSET && all_are(room + sizeof *o, later - sizeof *o, 0));
    MUST(all_are(room + later, ROOM - later, CANARY));
    o->model = demo;
    IS(INVALID_ARGUMENT, sftmix_job_new(o, NULL, &job));
    MUST(has(sftmix_last_error(), "later version"));
    /* The macro says what the program has. */
    sftmix_train_options_init(o);
    MUST(o->struct_size == sizeof *o);
    memset(room, CANARY, ROOM);
    sftmix_train_options_init_sized(o, 4);
    sftmix_train_options_init_sized(NULL, sizeof *o);
    MUST(all_are(room, ROOM, CANARY));

    /* What the library fills, and frees: no text is lost that there is no place for, none freed that is not there. */
    const size_t places[] = {offsetof(sftmix_report, adapter), offsetof(sftmix_report, steps), sizeof(sftmix_report), sizeof(sftmix_report) + 64};
    for (int i = 0; i < 4; i++) {
        memset(room, CANARY, ROOM);
        sftmix_report *report = (void *)room;
        sftmix_report_init_sized(report, places[i]);
        OK(sftmix_job_resume(in_work("plain"), NULL, NULL, &job));
        OK(sftmix_job_run(job, report));
        OK(sftmix_job_free(job));
        MUST(report->struct_size == places[i] && has(report->run, "/plain") && (i < 1 || report->json) && (i < 2 || report->steps == steps_of_run));
        sftmix_report_free(report);
        sftmix_report_free(report);
        MUST(report->struct_size == places[i] && report->run == NULL && (i < 1 || report->json == NULL));
        MUST(all_are(room + places[i], ROOM - places[i], CANARY) && (i < 3 || all_are(room + sizeof *report, 64, 0)));
    }
    /* One that was not set up holds nothing. */
    memset(room, 0, ROOM);
    sftmix_report_free((void *)room);
    sftmix_event_free((void *)room);
    sftmix_generation_free((void *)room);
    sftmix_map_page_free((void *)room);
    free(room);
}

static void t_names(void)
{
    const struct { const char *name, *word; } pairs[] = {
        {sftmix_status_name(SFTMIX_STATUS_OK), "ok"},
        {sftmix_status_name(SFTMIX_STATUS_INVALID_CONFIG), "invalid_config"},
        {sftmix_status_name(SFTMIX_STATUS_DOWNLOAD), "download"},
        {sftmix_status_name(SFTMIX_STATUS_PANIC), "panic"},
        {sftmix_status_name(SFTMIX_STATUS_OTHER), "other"},
        {sftmix_status_name(98), "unknown"},
        {sftmix_status_name(-1), "unknown"},
        {sftmix_job_state_name(SFTMIX_JOB_STATE_IDLE), "idle"},
        {sftmix_job_state_name(SFTMIX_JOB_STATE_FAILED), "failed"},
        {sftmix_job_state_name(55), "unknown"},
        {sftmix_event_kind_name(SFTMIX_EVENT_KIND_NONE), "none"},
        {sftmix_event_kind_name(SFTMIX_EVENT_KIND_STOPPED_EARLY), "stopped_early"},
        {sftmix_stage_name(SFTMIX_STAGE_NONE), "none"},
        {sftmix_stage_name(SFTMIX_STAGE_SINGLE), "single"},
        {sftmix_half_name(SFTMIX_HALF_UNCONFIDENT), "unconfident"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        MUST(strcmp(pairs[i].name, pairs[i].word) == 0);
    /* Every status has one of its own. */
    int known = 0;
    for (int status = 0; status < 200; status++)
        known += strcmp(sftmix_status_name(status), "unknown") != 0;
    MUST(known == SFTMIX_STATUS_DOWNLOAD + 1 + 1 + (SFTMIX_STATUS_PANIC - SFTMIX_STATUS_INVALID_ARGUMENT + 1));
    IS(IO, sftmix_inspect(&(sftmix_inspect_options){.struct_size = 32, .model = in_work("nowhere"), .data = train_rows}, (char *[]){NULL}));
    MUST(strcmp(sftmix_status_name(sftmix_last_error_status()), "io") == 0);
}
