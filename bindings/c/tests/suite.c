/* The C interface, against the installed header and library.
 *   suite DEMO PROGRAM WORK [short | checked]
 * DEMO is assets/demo, PROGRAM the command line sftmix, WORK an empty folder. `short` leaves out what takes long under
 * valgrind, `checked` what a checking allocator spoils. One line for each test, and at last `N passed, N failed`. */
#define _GNU_SOURCE
#include <sftmix.h>

#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *demo, *program, *work;
static bool brief;
/* Rows, steps and threads of the quick run. Threads that wait for each other are what valgrind is slowest at. */
static unsigned rows_of_run = 800, held_out = 100, steps_of_run = 6, threads = 2;
static const char *train_rows, *valid_rows;
static int passed, failed_tests, failures;

static void fail_at(int line, const char *what)
{
    failures++;
    printf("    suite.c:%d: %s (last error: %s)\n", line, what, sftmix_last_error());
    fflush(stdout);
}

#define MUST(x) do { if (!(x)) { fail_at(__LINE__, #x); return; } } while (0)
#define OK(x) MUST((x) == SFTMIX_STATUS_OK)
#define IS(status, x) MUST((x) == SFTMIX_STATUS_##status)

/* A text that stays until it is asked for so many others. */
static const char *say(const char *format, ...)
{
    static _Thread_local char texts[32][4096];
    static _Thread_local int next;
    char *text = texts[next++ % 32];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof texts[0], format, args);
    va_end(args);
    return text;
}

static const char *in_work(const char *name) { return say("%s/%s", work, name); }
static const char *in_demo(const char *name) { return say("%s/%s", demo, name); }

static char *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    size_t room = 1 << 16, n = 0, got;
    char *text = malloc(room + 1);
    while ((got = fread(text + n, 1, room - n, file)) > 0)
        if ((n += got) == room)
            text = realloc(text, (room *= 2) + 1);
    fclose(file);
    text[n] = 0;
    if (length)
        *length = n;
    return text;
}

static bool write_file(const char *path, const void *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(bytes, 1, length, file) == length;
    return file && fclose(file) == 0 && good;
}

static bool same_files(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    bool same = x && y && n > 0 && n == m && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }
static bool shell(const char *command) { return system(command) == 0; }
static bool has(const char *text, const char *part) { return text && strstr(text, part); }

static const char *adapter_of(const char *run) { return say("%s/adapter/adapter_model.safetensors", in_work(run)); }
static bool same_adapters(const char *a, const char *b) { return same_files(adapter_of(a), adapter_of(b)); }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    nanosleep(&t, NULL);
}

/* Plain training, quick. */
static sftmix_train_options quick(const char *out)
{
    sftmix_train_options o;
    sftmix_train_options_init(&o);
    o.model = demo;
    o.data = train_rows;
    o.out = in_work(out);
    o.cache_dir = in_work("cache");
    o.recipe = "ntp";
    o.device = "cpu";
    o.max_steps = steps_of_run;
    o.batch_size = 4;
    o.max_length = 64;
    o.threads = threads;
    o.seed = 7;
    o.save_every = 2;
    o.warmup_ratio = 0;
    return o;
}

/* The same settings as `quick`, to be compared with. */
static bool plain_run(void)
{
    if (exists(adapter_of("plain")))
        return true;
    sftmix_train_options o = quick("plain");
    sftmix_job *job = NULL;
    bool good = sftmix_job_new(&o, NULL, &job) == SFTMIX_STATUS_OK && sftmix_job_run(job, NULL) == SFTMIX_STATUS_OK;
    return sftmix_job_free(job) == SFTMIX_STATUS_OK && good;
}

static sftmix_job_info info_of(sftmix_job *job)
{
    sftmix_job_info info;
    sftmix_job_info_init(&info);
    if (sftmix_job_status(job, &info) != SFTMIX_STATUS_OK)
        info.state = SFTMIX_JOB_STATE_OTHER;
    return info;
}

static bool reaches(sftmix_job *job, sftmix_job_state state, uint64_t step)
{
    for (double until = now() + 60; now() < until; nap(0.002)) {
        sftmix_job_info info = info_of(job);
        if (info.state == state && info.global_step >= step)
            return true;
        if (info.state >= SFTMIX_JOB_STATE_DONE)
            return false;
    }
    return false;
}

/* ---- what there is ---- */

static void t_version(void)
{
    MUST(strcmp(sftmix_version(), "0.1.0") == 0);
    MUST(strcmp(sftmix_last_error(), "") == 0 && sftmix_last_error_status() == SFTMIX_STATUS_OK);
    MUST(sftmix_last_error_field("path") == NULL && sftmix_last_error_field(NULL) == NULL);
    sftmix_string_free(NULL);
    sftmix_event_free(NULL);
    sftmix_report_free(NULL);
    sftmix_generation_free(NULL);
    OK(sftmix_job_free(NULL));
    OK(sftmix_model_free(NULL));
    OK(sftmix_generator_free(NULL));
}

static void t_command_line(void)
{
    MUST(shell(say("'%s' train --model '%s' --data '%s/train.jsonl' --valid '%s/valid.jsonl' --out '%s/cli' --recipe sftmix "
                   "--max-steps 4 --batch-size 4 --max-length 64 --lora-r 4 --lr 0.001 --reference-checkpoints 2 --device cpu --threads 2 "
                   "--warmup-ratio 0 --seed 7 --json > '%s/cli.json' 2> '%s/cli.err'",
                   program, demo, demo, demo, work, work, work)));
    sftmix_train_options o = quick("sdk");
    o.recipe = "sftmix";
    o.valid = in_demo("valid.jsonl");
    o.max_steps = 4;
    o.lora_r = 4;
    o.lr = 0.001;
    o.reference_checkpoints = 2;
    o.save_every = SFTMIX_UNSET;
    sftmix_model *model = NULL;
    OK(sftmix_model_open(demo, &model));
    char *path = NULL;
    OK(sftmix_model_path(model, &path));
    MUST(path[0] == '/');
    sftmix_string_free(path);
    o.model = NULL;
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, model, &job));
    OK(sftmix_job_start(job));
    sftmix_report report;
    sftmix_report_init(&report);
    OK(sftmix_job_wait(job, -1, NULL, &report));
    MUST(same_adapters("cli", "sdk"));
    MUST(report.steps == 8 && report.examples == 800 && report.train_loss > 0 && report.eval_loss > 0);
    MUST(has(report.adapter, "/sdk/adapter") && has(report.json, "\"train_loss\":"));
    /* The words are the command line's. */
    char *cli = read_file(in_work("cli.json"), NULL), *from = strstr(report.json, "\"steps\":"), *to = from ? strstr(from, "\"seconds\":") : NULL;
    MUST(cli && from && to && to - from > 60 && has(cli, say("%.*s", (int)(to - from), from)));
    free(cli);
    MUST(info_of(job).state == SFTMIX_JOB_STATE_DONE && info_of(job).global_step == 8);
    sftmix_report_free(&report);
    sftmix_report_free(&report);
    MUST(report.json == NULL);
    char *settings = NULL, *status = NULL;
    OK(sftmix_job_settings(job, &settings));
    OK(sftmix_job_status_json(job, &status));
    MUST(has(settings, "\"max_steps\":4") && has(settings, "\"lora_r\":4") && has(status, "\"state\":\"done\"") && has(status, "checkpoint-"));
    sftmix_string_free(settings);
    sftmix_string_free(status);
    OK(sftmix_job_free(job));
    OK(sftmix_model_free(model));
}

static void t_settings_json(void)
{
    MUST(plain_run());
    sftmix_train_options o;
    sftmix_train_options_init(&o);
    o.settings_json = say("{\"model\":\"%s\",\"data\":[\"%s\"],\"out\":\"%s/json\",\"recipe\":\"ntp\",\"device\":\"cpu\","
                          "\"warmup_ratio\":0,\"max_steps\":%u,\"batch_size\":4,\"max_length\":64,\"threads\":%u,\"seed\":7,\"save_every\":2,\"valid\":null}",
                          demo, train_rows, work, steps_of_run, threads);
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, NULL, &job));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("plain", "json"));
    /* An earlier version of the structure ended before its last field. */
    o = quick("short");
    o.struct_size = offsetof(sftmix_train_options, settings_json);
    o.settings_json = (const char *)(uintptr_t)1;
    OK(sftmix_job_new(&o, NULL, &job));
    OK(sftmix_job_free(job));
    MUST(!exists(in_work("short")));
}

static void t_looks(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("planned");
    sftmix_run_plan plan;
    sftmix_run_plan_init(&plan);
    char *json = NULL;
    OK(sftmix_plan(&o, NULL, &plan, &json));
    MUST(plan.fits && plan.steps == steps_of_run && plan.examples == rows_of_run && plan.predicted_peak_bytes > 100000 && plan.seconds > 0);
    MUST(has(json, "\"predicted_peak_bytes\":") && plan.memory_limit == SFTMIX_UNSET);
    sftmix_string_free(json);
    o.memory_limit = 1000;
    OK(sftmix_plan(&o, NULL, &plan, NULL));
    MUST(!plan.fits && plan.predicted_peak_bytes > 1000 && plan.memory_limit == 1000);
    sftmix_eval_options e;
    sftmix_eval_options_init(&e);
    e.model = demo;
    e.adapter = in_work("plain/adapter");
    e.data = valid_rows;
    e.device = "cpu";
    e.threads = threads;
    e.cache_dir = in_work("cache");
    sftmix_evaluation with, without;
    sftmix_evaluation_init(&with);
    sftmix_evaluation_init(&without);
    OK(sftmix_evaluate(&e, NULL, &with, &json));
    MUST(has(json, "\"nll\":") && has(json, "\"supervised_tokens\":"));
    sftmix_string_free(json);
    sftmix_model *model = NULL;
    OK(sftmix_model_open(demo, &model));
    e.model = e.adapter = NULL;
    OK(sftmix_evaluate(&e, model, &without, NULL));
    MUST(with.examples == held_out && without.examples == held_out && with.nll > 0 && with.nll != without.nll);
    MUST(fabs(exp(with.nll) - with.perplexity) < 1e-9 * with.perplexity);
    e.model = demo;
    IS(INVALID_CONFIG, sftmix_evaluate(&e, model, &without, NULL));
    MUST(strcmp(sftmix_last_error_field("field"), "model") == 0);
    OK(sftmix_model_free(model));
    e.data_options_json = "{\"lr\":1}";
    IS(INVALID_CONFIG, sftmix_evaluate(&e, NULL, NULL, NULL));
    MUST(strcmp(sftmix_last_error_field("field"), "lr") == 0);
    sftmix_inspect_options i;
    sftmix_inspect_options_init(&i);
    i.model = demo;
    i.data = valid_rows;
    i.rows = 1;
    OK(sftmix_inspect(&i, &json));
    MUST(has(json, "\"files\":[{") && has(json, "\"trained\":true") && has(json, say("\"rows\":%u", held_out)));
    sftmix_string_free(json);
    i.row = 1000;
    IS(INVALID_CONFIG, sftmix_inspect(&i, &json));
}

static void t_export(void)
{
    MUST(plain_run());
    sftmix_export_options o;
    sftmix_export_options_init(&o);
    o.run = in_work("plain");
    o.formats = "peft, gguf,mlx";
    o.threads = 2;
    char *json = NULL;
    OK(sftmix_export(&o, NULL, &json));
    MUST(has(json, "\"format\":\"gguf\"") && has(json, "\"effect\":"));
    sftmix_string_free(json);
    MUST(exists(in_work("plain/export/gguf/adapter.gguf")) && exists(in_work("plain/export/mlx/adapters.safetensors")));
    MUST(shell(say("'%s' export '%s/plain' --to gguf --out '%s/cli-export' > /dev/null 2>&1", program, work, work)));
    MUST(same_files(in_work("cli-export/gguf/adapter.gguf"), in_work("plain/export/gguf/adapter.gguf")));
    o.formats = "onnx";
    IS(INVALID_CONFIG, sftmix_export(&o, NULL, NULL));
    MUST(strcmp(sftmix_last_error_field("field"), "formats") == 0 && has(sftmix_last_error(), "peft, gguf, mlx"));
    o.formats = NULL;
    IS(INVALID_CONFIG, sftmix_export(&o, NULL, NULL));
    o.gguf = "q8_0";
    IS(INVALID_CONFIG, sftmix_export(&o, NULL, NULL));
    o.gguf = NULL;
    o.out = in_work("merged");
    sftmix_model *model = NULL;
    OK(sftmix_model_open(demo, &model));
    OK(sftmix_merge(&o, model, &json));
    MUST(has(json, "\"linears\":28") && exists(in_work("merged/model.safetensors")));
    sftmix_string_free(json);
    IS(INVALID_CONFIG, sftmix_merge(&o, model, NULL));
    MUST(strcmp(sftmix_last_error_field("field"), "out") == 0);
    OK(sftmix_model_free(model));
}

/* ---- steering ---- */

static void t_events(void)
{
    sftmix_train_options o = quick("events");
    o.valid = valid_rows;
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, NULL, &job));
    sftmix_event event;
    sftmix_event_init(&event);
    OK(sftmix_job_next_event(job, 0, &event));
    MUST(event.kind == SFTMIX_EVENT_KIND_NONE && event.json == NULL);
    OK(sftmix_job_start(job));
    char *lines = calloc(1, 1 << 20);
    uint64_t number = 0, steps = 0, evaluations = 0, checkpoints = 0, prepared = 0;
    for (;;) {
        OK(sftmix_job_next_event(job, -1, &event));
        if (event.kind == SFTMIX_EVENT_KIND_NONE)
            break;
        MUST(event.number == ++number && event.json);
        /* It comes again until it is acknowledged. */
        sftmix_event again;
        sftmix_event_init(&again);
        OK(sftmix_job_next_event(job, 0, &again));
        MUST(again.number == number && strcmp(again.json, event.json) == 0);
        sftmix_event_free(&again);
        IS(MISUSE, sftmix_job_acknowledge(job, number + 1));
        OK(sftmix_job_acknowledge(job, number));
        OK(sftmix_job_acknowledge(job, number));
        if (event.kind == SFTMIX_EVENT_KIND_STEP || event.kind == SFTMIX_EVENT_KIND_EVALUATED)
            strcat(strcat(lines, event.json), "\n");
        switch (event.kind) {
        case SFTMIX_EVENT_KIND_PREPARED:
            prepared++;
            MUST(event.prepared.examples == rows_of_run && event.prepared.valid_examples == held_out && event.prepared.total_steps == steps_of_run);
            break;
        case SFTMIX_EVENT_KIND_STEP:
            MUST(event.step.global_step == ++steps && event.step.total_steps == steps_of_run && event.step.loss > 0 && event.step.grad_norm > 0);
            MUST(event.step.stage == SFTMIX_STAGE_SINGLE || event.step.stage == SFTMIX_STAGE_TARGET);
            MUST(isnan(event.step.mixup_loss) && event.sweep.total == 0);
            break;
        case SFTMIX_EVENT_KIND_EVALUATED:
            evaluations++;
            MUST(event.evaluated.eval_loss > 0);
            break;
        case SFTMIX_EVENT_KIND_CHECKPOINT:
            checkpoints++;
            MUST(has(event.text, "/events/checkpoint-"));
            break;
        default:
            break;
        }
        sftmix_event_free(&event);
        sftmix_event_free(&event);
    }
    MUST(prepared == 1 && steps == steps_of_run && evaluations == 2 && checkpoints >= 1);
    size_t length = 0;
    char *metrics = read_file(in_work("events/metrics.jsonl"), &length);
    MUST(metrics && length > 0 && strcmp(metrics, lines) == 0);
    free(metrics);
    free(lines);
    OK(sftmix_job_wait(job, -1, NULL, NULL));
    OK(sftmix_job_free(job));
}

struct heard {
    sftmix_job *job;
    int steps, all, answer, wait_refused, free_refused;
    int stop_at;
    sftmix_job_info info;
    bool calls_in;
};

static int listen_to(void *user_data, const sftmix_event *event)
{
    struct heard *h = user_data;
    h->all++;
    if (event->kind != SFTMIX_EVENT_KIND_STEP)
        return SFTMIX_CONTINUE;
    h->steps++;
    if (h->calls_in) {
        sftmix_job_info_init(&h->info);
        sftmix_job_status(h->job, &h->info);
        sftmix_job_pause(h->job);
        sftmix_job_unpause(h->job);
        sftmix_job_set_listener(h->job, listen_to, h);
        h->wait_refused = sftmix_job_wait(h->job, -1, NULL, NULL) == SFTMIX_STATUS_MISUSE;
        h->free_refused = sftmix_job_free(h->job) == SFTMIX_STATUS_MISUSE;
    }
    if (h->stop_at && h->steps >= h->stop_at) {
        if (h->answer == SFTMIX_FAIL)
            sftmix_callback_failed("the disc is full");
        return h->answer;
    }
    return SFTMIX_CONTINUE;
}

static void t_listener(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("heard");
    struct heard h = {.calls_in = true};
    OK(sftmix_job_new(&o, NULL, &h.job));
    OK(sftmix_job_set_listener(h.job, listen_to, &h));
    OK(sftmix_job_run(h.job, NULL));
    MUST(h.steps >= 1 && h.all > h.steps && h.wait_refused && h.free_refused);
    MUST(h.info.global_step >= 1 && h.info.global_step <= steps_of_run && h.info.total_steps == steps_of_run);
    OK(sftmix_job_free(h.job));
    MUST(same_adapters("plain", "heard"));
}

static void t_listener_stops(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("stopped");
    o.max_steps = 400;
    struct heard h = {.stop_at = 1, .answer = SFTMIX_STOP};
    OK(sftmix_job_new(&o, NULL, &h.job));
    OK(sftmix_job_set_listener(h.job, listen_to, &h));
    IS(STOPPED, sftmix_job_run(h.job, NULL));
    MUST(has(sftmix_last_error_field("checkpoint"), "/stopped/checkpoint-"));
    MUST(info_of(h.job).state == SFTMIX_JOB_STATE_CANCELLED);
    OK(sftmix_job_free(h.job));
    o.out = in_work("failing");
    h = (struct heard){.stop_at = 1, .answer = SFTMIX_FAIL};
    OK(sftmix_job_new(&o, NULL, &h.job));
    OK(sftmix_job_set_listener(h.job, listen_to, &h));
    OK(sftmix_job_start(h.job));
    IS(CALLBACK, sftmix_job_wait(h.job, -1, NULL, NULL));
    MUST(strcmp(sftmix_last_error_field("reason"), "the disc is full") == 0);
    MUST(info_of(h.job).state == SFTMIX_JOB_STATE_FAILED);
    OK(sftmix_job_free(h.job));
}

static void t_cancel(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("cancelled");
    o.epochs = 1;
    o.max_steps = 60;
    o.save_every = 10;
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, NULL, &job));
    o.out = in_work("whole");
    sftmix_job *whole = NULL;
    OK(sftmix_job_new(&o, NULL, &whole));
    OK(sftmix_job_run(whole, NULL));
    OK(sftmix_job_free(whole));
    OK(sftmix_job_start(job));
    IS(MISUSE, sftmix_job_start(job));
    IS(MISUSE, sftmix_job_run(job, NULL));
    bool ended = true;
    OK(sftmix_job_wait(job, 0, &ended, NULL));
    MUST(!ended);
    MUST(reaches(job, SFTMIX_JOB_STATE_RUNNING, 3));
    OK(sftmix_job_cancel(job, true));
    double asked = now();
    IS(STOPPED, sftmix_job_wait(job, 60000, &ended, NULL));
    double took = now() - asked;
    MUST(ended && has(sftmix_last_error_field("checkpoint"), "/cancelled/checkpoint-"));
    /* One micro-batch of four short rows, and a checkpoint. */
    MUST(took < 2);
    MUST(info_of(job).global_step < 60);
    OK(sftmix_job_free(job));
    OK(sftmix_job_resume(in_work("cancelled"), NULL, NULL, &job));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("whole", "cancelled"));
    /* Without a checkpoint, and taken up by the same job. */
    o.out = in_work("dropped");
    OK(sftmix_job_new(&o, NULL, &job));
    OK(sftmix_job_start(job));
    MUST(reaches(job, SFTMIX_JOB_STATE_RUNNING, 3));
    OK(sftmix_job_cancel(job, false));
    IS(STOPPED, sftmix_job_wait(job, -1, NULL, NULL));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("whole", "dropped"));
    /* Freed while it runs: stopped and joined. */
    o.out = in_work("freed");
    OK(sftmix_job_new(&o, NULL, &job));
    OK(sftmix_job_start(job));
    MUST(reaches(job, SFTMIX_JOB_STATE_RUNNING, 1));
    OK(sftmix_job_free(job));
    OK(sftmix_job_resume(in_work("freed"), "{\"device\":\"cpu\"}", NULL, &job));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("whole", "freed"));
}

static void t_pause(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("paused");
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, NULL, &job));
    sftmix_limits slow;
    sftmix_limits_init(&slow);
    slow.duty_cycle = 0.05;
    OK(sftmix_job_update(job, &slow));
    OK(sftmix_job_start(job));
    MUST(reaches(job, SFTMIX_JOB_STATE_RUNNING, 1));
    OK(sftmix_job_pause(job));
    MUST(reaches(job, SFTMIX_JOB_STATE_PAUSED, 1));
    uint64_t at = info_of(job).global_step;
    MUST(at < 6);
    nap(0.3);
    MUST(info_of(job).global_step == at && info_of(job).state == SFTMIX_JOB_STATE_PAUSED);
    slow.duty_cycle = 1;
    OK(sftmix_job_update(job, &slow));
    OK(sftmix_job_unpause(job));
    OK(sftmix_job_wait(job, -1, NULL, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("plain", "paused"));
}

static void t_slices(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("sliced");
    sftmix_job *job = NULL;
    sftmix_report report;
    sftmix_report_init(&report);
    OK(sftmix_job_new(&o, NULL, &job));
    bool finished = true;
    OK(sftmix_job_run_slice(job, 0, &finished, &report));
    MUST(!finished && report.json == NULL && info_of(job).state == SFTMIX_JOB_STATE_IDLE);
    int slices = 1;
    for (; !finished && slices < 1000; slices++)
        OK(sftmix_job_run_slice(job, 0.03, &finished, &report));
    MUST(finished && slices > 1 && report.steps == steps_of_run);
    sftmix_report_free(&report);
    IS(INVALID_ARGUMENT, sftmix_job_run_slice(job, -1, &finished, NULL));
    IS(INVALID_ARGUMENT, sftmix_job_run_slice(job, NAN, &finished, NULL));
    IS(INVALID_ARGUMENT, sftmix_job_run_slice(job, 1, NULL, NULL));
    OK(sftmix_job_free(job));
    MUST(same_adapters("plain", "sliced"));
}

static void t_update(void)
{
    sftmix_train_options o = quick("updated");
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, NULL, &job));
    sftmix_limits l;
    sftmix_limits_init(&l);
    l.threads = 0;
    IS(INVALID_CONFIG, sftmix_job_update(job, &l));
    MUST(strcmp(sftmix_last_error_field("field"), "threads") == 0);
    l.threads = 1;
    l.duty_cycle = 1.5;
    IS(INVALID_CONFIG, sftmix_job_update(job, &l));
    MUST(strcmp(sftmix_last_error_field("field"), "duty_cycle") == 0);
    l.duty_cycle = 0.05;
    OK(sftmix_job_update(job, &l));
    OK(sftmix_job_start(job));
    MUST(reaches(job, SFTMIX_JOB_STATE_RUNNING, 1));
    sftmix_job_info info = info_of(job);
    MUST(info.limits.threads == 1 && info.limits.duty_cycle == 0.05);
    sftmix_limits little;
    sftmix_limits_init(&little);
    little.memory_limit = 1000;
    IS(MEMORY_LIMIT, sftmix_job_update(job, &little));
    MUST(strcmp(sftmix_last_error_field("limit"), "1000") == 0 && atoll(sftmix_last_error_field("needed")) > 1000);
    l.duty_cycle = 1;
    OK(sftmix_job_update(job, &l));
    OK(sftmix_job_wait(job, -1, NULL, NULL));
    sftmix_event event;
    sftmix_event_init(&event);
    bool told = false;
    for (uint64_t n = 1;; n++) {
        OK(sftmix_job_next_event(job, 0, &event));
        if (event.kind == SFTMIX_EVENT_KIND_NONE)
            break;
        told |= event.kind == SFTMIX_EVENT_KIND_LIMITS && event.limits.threads == 1 && event.text == NULL;
        sftmix_event_free(&event);
        OK(sftmix_job_acknowledge(job, n));
    }
    MUST(told);
    OK(sftmix_job_free(job));
}

struct rows {
    FILE *file;
    char line[4096];
    int given, fail_at, garbage_at, not_text_at;
    int calls_behind;
    bool ended;
};

static const char *next_row(void *user_data, bool *failed)
{
    struct rows *r = user_data;
    r->given++;
    r->calls_behind += r->ended;
    if (r->given == r->fail_at) {
        sftmix_callback_failed("the cursor was closed");
        *failed = true;
        return NULL;
    }
    if (r->given == r->garbage_at)
        return "[1]";
    if (r->given == r->not_text_at)
        return "{\"text\":\"\xff\"}";
    if (!r->file || !fgets(r->line, sizeof r->line, r->file)) {
        r->ended = true;
        return NULL;
    }
    return r->line;
}

static void t_rows(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("rows");
    o.data = NULL;
    struct rows r = {.file = fopen(train_rows, "r")};
    sftmix_job *job = NULL;
    OK(sftmix_job_new_with_rows(&o, NULL, next_row, &r, &job));
    MUST(r.given == 0);
    OK(sftmix_job_run(job, NULL));
    fclose(r.file);
    MUST(r.given == (int)rows_of_run + 1 && r.calls_behind == 0);
    OK(sftmix_job_free(job));
    MUST(same_adapters("plain", "rows"));
    MUST(same_files(in_work("rows/rows.jsonl"), train_rows));
    const struct rows bad[] = {{.fail_at = 1}, {.garbage_at = 1}, {.not_text_at = 1}, {.file = NULL}};
    const sftmix_status want[] = {SFTMIX_STATUS_CALLBACK, SFTMIX_STATUS_DATA_INVALID, SFTMIX_STATUS_CALLBACK, SFTMIX_STATUS_NOTHING_TO_TRAIN};
    const char *reason[] = {"the cursor was closed", "a JSON object", "UTF-8", "gave none"};
    for (int i = 0; i < 4; i++) {
        r = bad[i];
        o.out = in_work("bad-rows");
        OK(sftmix_job_new_with_rows(&o, NULL, next_row, &r, &job));
        MUST(sftmix_job_run(job, NULL) == want[i]);
        MUST(has(sftmix_last_error_field("reason"), reason[i]));
        MUST(i != 1 || strcmp(sftmix_last_error_field("row"), "1") == 0);
        OK(sftmix_job_free(job));
        MUST(!exists(in_work("bad-rows/rows.jsonl")));
    }
    o.data = train_rows;
    IS(INVALID_CONFIG, sftmix_job_new_with_rows(&o, NULL, next_row, &r, &job));
    IS(INVALID_ARGUMENT, sftmix_job_new_with_rows(&o, NULL, NULL, &r, &job));
}

static void t_two_jobs(void)
{
    MUST(plain_run());
    sftmix_model *model = NULL;
    OK(sftmix_model_open(demo, &model));
    sftmix_job *jobs[2];
    for (int i = 0; i < 2; i++) {
        sftmix_train_options o = quick(i ? "two" : "one");
        o.model = NULL;
        OK(sftmix_job_new(&o, model, &jobs[i]));
        OK(sftmix_job_start(jobs[i]));
    }
    OK(sftmix_model_free(model));
    for (int i = 0; i < 2; i++) {
        OK(sftmix_job_wait(jobs[i], -1, NULL, NULL));
        OK(sftmix_job_free(jobs[i]));
    }
    MUST(same_adapters("plain", "one") && same_adapters("plain", "two"));
}

static void t_shared_workers(void)
{
    MUST(plain_run());
    sftmix_model *model = NULL, *shared = NULL;
    OK(sftmix_model_open(demo, &model));
    IS(INVALID_CONFIG, sftmix_model_share_workers(model, 0, &shared));
    IS(INVALID_ARGUMENT, sftmix_model_share_workers(model, 2, NULL));
    OK(sftmix_model_share_workers(model, threads, &shared));
    OK(sftmix_model_free(model));
    sftmix_job *jobs[2];
    for (int i = 0; i < 2; i++) {
        sftmix_train_options o = quick(i ? "shared-two" : "shared-one");
        o.model = NULL;
        o.threads = SFTMIX_UNSET;
        OK(sftmix_job_new(&o, shared, &jobs[i]));
        OK(sftmix_job_start(jobs[i]));
    }
    for (int i = 0; i < 2; i++) {
        OK(sftmix_job_wait(jobs[i], -1, NULL, NULL));
        OK(sftmix_job_free(jobs[i]));
    }
    MUST(same_adapters("plain", "shared-one") && same_adapters("plain", "shared-two"));
    sftmix_train_options o = quick("shared-three");
    o.model = NULL;
    o.threads = 3;
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&o, shared, &job));
    IS(INVALID_CONFIG, sftmix_job_run(job, NULL));
    MUST(has(sftmix_last_error(), say("threads: expected %u or none, found 3", threads)));
    OK(sftmix_job_free(job));
    OK(sftmix_model_free(shared));
}

/* ---- texts ---- */

struct spoken {
    sftmix_generator *generator;
    char text[4096];
    int pieces, stop_at;
    bool asks_again, refused;
};

static bool hear(void *user_data, const char *piece)
{
    struct spoken *s = user_data;
    strcat(s->text, piece);
    s->pieces++;
    if (s->asks_again)
        s->refused = sftmix_generator_generate(s->generator, "x", NULL, NULL, NULL, NULL) == SFTMIX_STATUS_MISUSE;
    return s->stop_at == 0 || s->pieces < s->stop_at;
}

static void t_generate(void)
{
    MUST(plain_run());
    sftmix_model *model = NULL;
    OK(sftmix_model_open(demo, &model));
    struct spoken s = {0};
    OK(sftmix_generator_open(model, "cpu", threads, &s.generator));
    OK(sftmix_model_free(model));
    OK(sftmix_generator_add_adapter(s.generator, "plain", in_work("plain/adapter")));
    IS(INVALID_CONFIG, sftmix_generator_use_adapter(s.generator, "none"));
    OK(sftmix_generator_use_adapter(s.generator, "plain"));
    char *names = NULL;
    OK(sftmix_generator_adapters(s.generator, &names));
    MUST(strcmp(names, "{\"adapters\":[\"plain\"],\"adapter\":\"plain\"}") == 0);
    sftmix_string_free(names);
    const char *prompt = "Question: What light does Tremwick show?\nAnswer:";
    sftmix_generate_options o;
    sftmix_generate_options_init(&o);
    o.max_new_tokens = 12;
    sftmix_generation g;
    sftmix_generation_init(&g);
    s.asks_again = true;
    OK(sftmix_generator_generate(s.generator, prompt, &o, hear, &s, &g));
    MUST(s.refused && s.pieces >= 1 && strcmp(s.text, g.text) == 0 && g.prompt_tokens > 5 && !g.cancelled);
    MUST(brief || shell(say("'%s' generate --model '%s' --adapter '%s/plain/adapter' --device cpu --max-new-tokens 12 --prompt '%s' > '%s/said' 2> /dev/null",
                   program, demo, work, prompt, work)));
    char *said = read_file(in_work("said"), NULL);
    MUST(brief || said);
    MUST(brief || strcmp(said, say("%s\n", g.text)) == 0);
    free(said);
    /* The text ends before a stop string. */
    char first[2] = {g.text[1], 0};
    const char *stops[] = {first};
    sftmix_generation_free(&g);
    o.stop = stops;
    o.stop_count = 1;
    OK(sftmix_generator_generate(s.generator, prompt, &o, NULL, NULL, &g));
    MUST(g.stopped && strcmp(g.stop, first) == 0 && !strchr(g.text, first[0]));
    sftmix_generation_free(&g);
    o.stop_count = 0;
    /* The callback ends it. */
    struct spoken two = {.generator = s.generator, .stop_at = 2};
    OK(sftmix_generator_generate(s.generator, "Question:", &o, hear, &two, &g));
    MUST(two.pieces == 2 && g.cancelled && g.new_tokens == 2);
    sftmix_generation_free(&g);
    /* A chat needs a template. */
    const char *chat = "[{\"role\":\"user\",\"content\":\"What light does Tremwick show?\"}]";
    IS(CHAT_TEMPLATE, sftmix_generator_chat(s.generator, chat, &o, NULL, NULL, &g));
    MUST(strcmp(sftmix_last_error_field("path"), demo) == 0);
    const char *jinja = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    MUST(write_file(in_work("chat.jinja"), jinja, strlen(jinja)));
    OK(sftmix_generator_load_chat_template(s.generator, in_work("chat.jinja")));
    o.max_new_tokens = 4;
    OK(sftmix_generator_chat(s.generator, chat, &o, NULL, NULL, &g));
    MUST(g.new_tokens >= 1 && g.cached_tokens == 0);
    sftmix_generation_free(&g);
    OK(sftmix_generator_chat(s.generator, say("{\"messages\":%s}", chat), &o, NULL, NULL, &g));
    MUST(g.cached_tokens > 0);
    sftmix_generation_free(&g);
    OK(sftmix_generator_forget(s.generator));
    IS(INVALID_ARGUMENT, sftmix_generator_chat(s.generator, "{\"messages\":[],\"x\":1}", &o, NULL, NULL, &g));
    o.top_p = 2;
    IS(INVALID_CONFIG, sftmix_generator_generate(s.generator, prompt, &o, NULL, NULL, NULL));
    MUST(strcmp(sftmix_last_error_field("field"), "top_p") == 0);
    OK(sftmix_generator_free(s.generator));
    IS(INVALID_HANDLE, sftmix_generator_cancel(s.generator));
}

static void t_map(void)
{
    MUST(plain_run());
    sftmix_map *map = NULL;
    IS(NO_DYNAMICS, sftmix_map_open(in_work("plain"), &map));
    MUST(has(sftmix_last_error_field("path"), "plain"));
    sftmix_train_options t = quick("mapped");
    t.recipe = "sftmix";
    t.max_steps = 2;
    t.reference_checkpoints = 2;
    sftmix_job *job = NULL;
    OK(sftmix_job_new(&t, NULL, &job));
    OK(sftmix_job_run(job, NULL));
    OK(sftmix_job_free(job));
    OK(sftmix_map_open(in_work("mapped"), &map));
    sftmix_map_query q;
    sftmix_map_query_init(&q);
    q.limit = 10;
    q.with_text = 1;
    sftmix_map_page page;
    sftmix_map_page_init(&page);
    OK(sftmix_map_rows(map, &q, &page));
    MUST(page.total == rows_of_run && page.count == 10 && page.row_size == sizeof(sftmix_map_row));
    for (size_t i = 0; i < page.count; i++) {
        const sftmix_map_row *r = sftmix_map_page_row(&page, i);
        MUST(i == 0 || r->confidence >= page.rows[i - 1].confidence);
        MUST(r->half == SFTMIX_HALF_UNCONFIDENT && fabs(r->confidence + r->mean_perplexity) < 1e-5 * r->mean_perplexity);
        MUST(r->row == r->index + 1 && has(r->file, ".jsonl") && has(r->prompt, "Question:") && r->response && !r->text_absent);
        MUST(r->tokens > 0 && r->correctness <= 2 && r->mean_probability > 0);
    }
    char *json = NULL;
    OK(sftmix_map_rows_json(map, &q, &json));
    MUST(has(json, say("{\"total\":%u,\"rows\":[{\"index\":%d,", rows_of_run, (int)page.rows[0].index)));
    sftmix_string_free(json);
    /* The next page, and what lies between two bounds. */
    sftmix_map_page next;
    sftmix_map_page_init(&next);
    q.with_text = 0;
    q.offset = 5;
    q.limit = 5;
    OK(sftmix_map_rows(map, &q, &next));
    MUST(next.count == 5 && next.rows[0].index == page.rows[5].index && next.rows[0].prompt == NULL);
    sftmix_map_page_free(&next);
    q.offset = SFTMIX_UNSET;
    q.filters_json = say("[{\"key\":\"confidence\",\"min\":%.17g,\"max\":%.17g}]", page.rows[2].confidence, page.rows[4].confidence);
    OK(sftmix_map_rows(map, &q, &next));
    MUST(next.total >= 3 && next.rows[0].confidence == page.rows[2].confidence);
    sftmix_map_page_free(&next);
    sftmix_map_page_free(&next);
    MUST(next.rows == NULL && next.count == 0);
    q.filters_json = NULL;
    q.half = "confident";
    q.sort_by = "variability";
    q.descending = 1;
    OK(sftmix_map_rows(map, &q, &next));
    MUST(next.total == rows_of_run / 2 && next.rows[0].half == SFTMIX_HALF_CONFIDENT && next.rows[0].variability >= next.rows[1].variability);
    sftmix_map_page_free(&next);
    OK(sftmix_map_rows(map, NULL, &next));
    MUST(next.count == (rows_of_run < 100 ? rows_of_run : 100));
    sftmix_map_page_free(&next);
    q.sort_by = "beauty";
    IS(INVALID_CONFIG, sftmix_map_rows(map, &q, &next));
    MUST(strcmp(sftmix_last_error_field("field"), "sort_by") == 0);
    q.sort_by = NULL;
    q.limit = 0;
    IS(INVALID_CONFIG, sftmix_map_rows(map, &q, &next));
    q.limit = 1;
    q.filters_json = "[{";
    IS(INVALID_ARGUMENT, sftmix_map_rows(map, &q, &next));
    OK(sftmix_map_summary(map, &json));
    MUST(has(json, say("\"examples\":%u", rows_of_run)) && has(json, "\"confident\":{"));
    sftmix_string_free(json);
    OK(sftmix_map_history(map, (uint32_t)page.rows[0].index, &json));
    MUST(has(json, "\"checkpoint\":\"reference-1\"") && has(json, "\"checkpoint\":\"reference-2\""));
    sftmix_string_free(json);
    MUST(sftmix_map_history(map, rows_of_run, &json) != SFTMIX_STATUS_OK);
    sftmix_map_page_free(&page);
    OK(sftmix_map_free(map));
    IS(INVALID_HANDLE, sftmix_map_free(map));
    OK(sftmix_map_free(NULL));
}

/* ---- faults ---- */

static bool copy_demo(const char *name)
{
    return shell(say("rm -rf '%s/%s' && mkdir '%s/%s' && cp '%s'/* '%s/%s/' && chmod -R u+w '%s/%s'", work, name, work, name, demo, work, name, work, name));
}

static sftmix_status new_and_run(const sftmix_train_options *o)
{
    sftmix_job *job = NULL;
    sftmix_status status = sftmix_job_new(o, NULL, &job);
    if (status != SFTMIX_STATUS_OK)
        return status;
    status = sftmix_job_run(job, NULL);
    sftmix_job_free(job);
    return status;
}

static void t_arguments(void)
{
    sftmix_train_options o = quick("never");
    sftmix_job *job = NULL;
    sftmix_model *model = NULL;
    IS(INVALID_ARGUMENT, sftmix_job_new(NULL, NULL, &job));
    MUST(strcmp(sftmix_last_error_field("field"), "sftmix_train_options") == 0 && sftmix_last_error_status() == SFTMIX_STATUS_INVALID_ARGUMENT);
    IS(INVALID_ARGUMENT, sftmix_job_new(&o, NULL, NULL));
    IS(INVALID_ARGUMENT, sftmix_model_open(NULL, &model));
    IS(INVALID_ARGUMENT, sftmix_model_open("a\xff", &model));
    MUST(has(sftmix_last_error(), "UTF-8"));
    o.struct_size = 0;
    IS(INVALID_ARGUMENT, sftmix_job_new(&o, NULL, &job));
    o.struct_size = sizeof o + 8;
    IS(INVALID_ARGUMENT, sftmix_job_new(&o, NULL, &job));
    MUST(has(sftmix_last_error(), "later version"));
    o = quick("never");
    o.settings_json = "{";
    IS(INVALID_ARGUMENT, sftmix_job_new(&o, NULL, &job));
    o.settings_json = "[]";
    IS(INVALID_ARGUMENT, sftmix_job_new(&o, NULL, &job));
    o.settings_json = "{\"seed\":1}";
    IS(INVALID_CONFIG, sftmix_job_new(&o, NULL, &job));
    MUST(strcmp(sftmix_last_error_field("field"), "seed") == 0 && has(sftmix_last_error_field("reason"), "twice"));
    o.settings_json = "{\"warmup_ration\":0.1}";
    IS(INVALID_CONFIG, sftmix_job_new(&o, NULL, &job));
    MUST(has(sftmix_last_error_field("reason"), "did you mean warmup_ratio"));
    o.settings_json = NULL;
    o.lr = INFINITY;
    IS(INVALID_CONFIG, sftmix_job_new(&o, NULL, &job));
    o.lr = NAN;
    o.epochs = -7;
    IS(INVALID_CONFIG, sftmix_job_new(&o, NULL, &job));
    MUST(strcmp(sftmix_last_error_field("field"), "epochs") == 0);
    o.epochs = SFTMIX_UNSET;
    o.recipe = "magic";
    IS(INVALID_CONFIG, sftmix_job_new(&o, NULL, &job));
    MUST(strcmp(sftmix_last_error_field("field"), "recipe") == 0);
    sftmix_event event;
    memset(&event, 0, sizeof event);
    o = quick("never");
    OK(sftmix_job_new(&o, NULL, &job));
    IS(INVALID_ARGUMENT, sftmix_job_next_event(job, 0, &event));
    IS(INVALID_ARGUMENT, sftmix_job_next_event(job, 0, NULL));
    IS(INVALID_ARGUMENT, sftmix_job_wait(job, 5, NULL, NULL));
    IS(MISUSE, sftmix_job_wait(job, -1, NULL, NULL));
    MUST(has(sftmix_last_error(), "not running"));
    OK(sftmix_job_free(job));
    MUST(!exists(in_work("never")) && job != NULL);
}

static void t_errors(void)
{
    MUST(plain_run());
    sftmix_train_options o = quick("errors");
    sftmix_job *job = NULL;
    sftmix_model *model = NULL;
    /* A model that is not there, is of another kind, or is damaged. */
    IS(IO, sftmix_model_open(in_work("nowhere"), &model));
    MUST(has(sftmix_last_error_field("path"), "nowhere") && sftmix_last_error_field("reason") && !sftmix_last_error_field("row"));
    MUST(copy_demo("copy"));
    const char *other = "{\"model_type\":\"bert\",\"architectures\":[\"BertModel\"]}";
    MUST(write_file(in_work("copy/config.json"), other, strlen(other)));
    IS(MODEL_NOT_SUPPORTED, sftmix_model_open(in_work("copy"), &model));
    MUST(has(sftmix_last_error_field("path"), "config.json"));
    MUST(copy_demo("copy") && truncate(in_work("copy/model.safetensors"), 5000) == 0);
    IS(MODEL_FORMAT, sftmix_model_open(in_work("copy"), &model));
    MUST(has(sftmix_last_error_field("path"), "model.safetensors") && sftmix_last_error_field("tensor"));
    MUST(copy_demo("copy") && write_file(in_work("copy/tokenizer.json"), "{}", 2));
    o.model = in_work("copy");
    IS(TOKENIZER, new_and_run(&o));
    /* Rows. */
    o = quick("errors2");
    const char *rows = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":1}\n";
    MUST(write_file(in_work("bad.jsonl"), rows, strlen(rows)));
    o.data = in_work("bad.jsonl");
    IS(DATA_INVALID, new_and_run(&o));
    MUST(strcmp(sftmix_last_error_field("row"), "2") == 0 && has(sftmix_last_error_field("path"), "bad.jsonl"));
    MUST(write_file(in_work("empty.jsonl"), "", 0));
    o.data = in_work("empty.jsonl");
    IS(NOTHING_TO_TRAIN, new_and_run(&o));
    /* Runs and adapters. */
    o = quick("plain");
    IS(CHECKPOINT, sftmix_job_new(&o, NULL, &job));
    MUST(has(sftmix_last_error_field("path"), "plain"));
    IS(INVALID_CONFIG, sftmix_job_resume(in_work("plain"), "{\"seed\":8}", NULL, &job));
    MUST(strcmp(sftmix_last_error_field("field"), "seed") == 0);
    sftmix_eval_options e;
    sftmix_eval_options_init(&e);
    e.model = demo;
    e.data = valid_rows;
    e.device = "cpu";
    e.cache_dir = in_work("cache");
    MUST(shell(say("cp -r '%s/plain/adapter' '%s/broken'", work, work)) && truncate(in_work("broken/adapter_model.safetensors"), 300) == 0);
    e.adapter = in_work("broken");
    IS(ADAPTER, sftmix_evaluate(&e, NULL, NULL, NULL));
    MUST(copy_demo("base"));
    int fd = open(in_work("base/model.safetensors"), O_RDWR);
    unsigned char byte = 0;
    MUST(fd >= 0 && pread(fd, &byte, 1, 1000000) == 1);
    byte ^= 1;
    MUST(pwrite(fd, &byte, 1, 1000000) == 1 && close(fd) == 0);
    e.model = in_work("base");
    e.adapter = in_work("plain/adapter");
    IS(BASE_MISMATCH, sftmix_evaluate(&e, NULL, NULL, NULL));
    MUST(strcmp(sftmix_last_error_field("what"), "weights") == 0 && strcmp(sftmix_last_error_field("expected"), sftmix_last_error_field("found")) != 0);
    MUST(has(sftmix_last_error_field("base"), "base") && has(sftmix_last_error_field("adapter"), "plain/adapter"));
    e.force = 1;
    OK(sftmix_evaluate(&e, NULL, NULL, NULL));
    /* Machine. */
    o = quick("errors3");
    o.device = "cuda";
    IS(DEVICE, new_and_run(&o));
    MUST(strcmp(sftmix_last_error_field("device"), "cuda") == 0);
    o = quick("errors4");
    o.memory_limit = 100000;
    IS(MEMORY_LIMIT, new_and_run(&o));
    MUST(strcmp(sftmix_last_error_field("limit"), "100000") == 0 && atoll(sftmix_last_error_field("needed")) > 100000 && sftmix_last_error_field("savings")[0] == '[');
    /* Numbers. */
    o = quick("errors5");
    o.lr = 1e30;
    o.clip = 0;
    IS(NON_FINITE, new_and_run(&o));
    MUST(sftmix_last_error_field("what") != NULL);
    o = quick("errors6");
    o.lr = 1e-60;
    o.weight_decay = 0;
    IS(NOTHING_TRAINED, new_and_run(&o));
    /* A dynamics log that is none. */
    o = quick("errors7");
    o.recipe = "sftmix";
    MUST(shell(say("mkdir -p '%s/dynamics' && echo x > '%s/dynamics/dynamics.bin'", work, work)));
    o.dynamics = in_work("dynamics");
    sftmix_status status = new_and_run(&o);
    MUST(status == SFTMIX_STATUS_DYNAMICS || status == SFTMIX_STATUS_INVALID_CONFIG || status == SFTMIX_STATUS_IO);
    MUST(has(sftmix_last_error(), "dynamics"));
    /* The last error stays until the next, and each thread has its own (t_threads). */
    OK(sftmix_model_open(demo, &model));
    MUST(has(sftmix_last_error(), "dynamics"));
    OK(sftmix_model_free(model));
}

static void t_handles(void)
{
    sftmix_model *model = NULL, *second = NULL;
    sftmix_job *job = NULL;
    char *path = NULL;
    OK(sftmix_model_open(demo, &model));
    OK(sftmix_model_free(model));
    IS(INVALID_HANDLE, sftmix_model_path(model, &path));
    MUST(has(sftmix_last_error(), "freed before"));
    IS(INVALID_HANDLE, sftmix_model_free(model));
    /* No later handle has the place of a freed one. */
    OK(sftmix_model_open(demo, &second));
    MUST(second != model);
    IS(INVALID_HANDLE, sftmix_model_free(model));
    sftmix_train_options o = quick("handles");
    o.model = NULL;
    IS(INVALID_HANDLE, sftmix_job_new(&o, model, &job));
    OK(sftmix_job_new(&o, second, &job));
    OK(sftmix_model_free(second));
    IS(INVALID_HANDLE, sftmix_model_path((sftmix_model *)job, &path));
    MUST(has(sftmix_last_error(), "but a job"));
    IS(INVALID_HANDLE, sftmix_job_pause((sftmix_job *)&o));
    IS(INVALID_HANDLE, sftmix_job_pause((sftmix_job *)(uintptr_t)-8));
    IS(INVALID_HANDLE, sftmix_job_pause(NULL));
    MUST(has(sftmix_last_error(), "NULL"));
    OK(sftmix_job_free(job));
    IS(INVALID_HANDLE, sftmix_job_start(job));
    IS(INVALID_HANDLE, sftmix_job_free(job));
    sftmix_generator *generator = NULL;
    IS(INVALID_HANDLE, sftmix_generator_open(NULL, "cpu", 1, &generator));
}

static sftmix_model *shared_model;

static void *work_along(void *number)
{
    intptr_t n = (intptr_t)number, wrong = 0;
    if (sftmix_last_error_status() != SFTMIX_STATUS_OK)
        wrong |= 1;
    sftmix_generator *generator = NULL;
    sftmix_generation g;
    sftmix_generation_init(&g);
    sftmix_generate_options o;
    sftmix_generate_options_init(&o);
    o.max_new_tokens = 5;
    for (int i = 0; i < 3; i++) {
        if (sftmix_generator_open(shared_model, "cpu", 1, &generator) != SFTMIX_STATUS_OK
            || sftmix_generator_generate(generator, "Question:", &o, NULL, NULL, &g) != SFTMIX_STATUS_OK || g.new_tokens == 0)
            wrong |= 2;
        sftmix_generation_free(&g);
        char name[32], *path = NULL;
        snprintf(name, sizeof name, "/no/such/%d", (int)n);
        sftmix_model *none = NULL;
        if (sftmix_model_open(name, &none) != SFTMIX_STATUS_IO || !has(sftmix_last_error(), name))
            wrong |= 4;
        if (sftmix_model_path(shared_model, &path) != SFTMIX_STATUS_OK)
            wrong |= 8;
        sftmix_string_free(path);
        if (sftmix_generator_free(generator) != SFTMIX_STATUS_OK || sftmix_generator_free(generator) != SFTMIX_STATUS_INVALID_HANDLE)
            wrong |= 16;
    }
    return (void *)wrong;
}

static void t_threads(void)
{
    OK(sftmix_model_open(demo, &shared_model));
    pthread_t workers[4];
    for (intptr_t i = 0; i < 4; i++)
        MUST(pthread_create(&workers[i], NULL, work_along, (void *)i) == 0);
    intptr_t wrong = 0;
    for (int i = 0; i < 4; i++) {
        void *answer = NULL;
        MUST(pthread_join(workers[i], &answer) == 0);
        wrong |= (intptr_t)answer;
    }
    MUST(wrong == 0);
    OK(sftmix_model_free(shared_model));
}

static void t_fork(void)
{
    sftmix_model *model = NULL;
    OK(sftmix_model_open(demo, &model));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char *path = NULL;
        sftmix_model *other = NULL;
        bool right = sftmix_model_path(model, &path) == SFTMIX_STATUS_FORKED && has(sftmix_last_error(), "fork")
            && sftmix_set_log_callback(0, NULL, NULL) == SFTMIX_STATUS_FORKED
            && sftmix_model_free(model) == SFTMIX_STATUS_FORKED && sftmix_model_open(demo, &other) == SFTMIX_STATUS_FORKED;
        _exit(right ? 0 : 1);
    }
    int status = 1;
    MUST(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(sftmix_model_free(model));
}

static int logged, warnings;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void log_line(void *user_data, int level, const char *target, const char *message)
{
    pthread_mutex_lock(&log_lock);
    logged++;
    warnings += level <= 2;
    if (user_data != &logged || level < 1 || level > 5 || !target[0] || !message)
        logged = -1000000;
    /* It may call in. */
    if (sftmix_version()[0] != '0')
        logged = -1000000;
    pthread_mutex_unlock(&log_lock);
}

static void t_log(void)
{
    OK(sftmix_set_log_callback(5, log_line, &logged));
    sftmix_train_options o = quick("logged");
    o.max_steps = 2;
    OK(new_and_run(&o));
    OK(sftmix_set_log_callback(0, NULL, NULL));
    int before = logged;
    MUST(before > 0);
    o.out = in_work("logged2");
    OK(new_and_run(&o));
    MUST(logged == before);
    IS(INVALID_ARGUMENT, sftmix_set_log_callback(9, log_line, NULL));
}

#include "parts/sizes.h"
#include "parts/ends.h"
#include "parts/turns.h"

/* ---- memory ---- */

static long rss_anon_kb(void)
{
    char *text = read_file("/proc/self/status", NULL), *line = text ? strstr(text, "RssAnon:") : NULL;
    long kb = line ? atol(line + 8) : -1;
    free(text);
    return kb;
}

/* What is held: glibc keeps what threads have freed in arenas of theirs, and how many of these there are is chance. */
static long held_kb(void)
{
    malloc_trim(0);
    return rss_anon_kb();
}

static void t_memory(void)
{
    long after20 = 0;
    for (int i = 1; i <= 200; i++) {
        sftmix_model *model = NULL;
        sftmix_job *job = NULL;
        OK(sftmix_model_open(demo, &model));
        sftmix_train_options o = quick("again");
        o.model = NULL;
        o.data = in_work("few.jsonl");
        o.max_steps = 1;
        o.warmup_ratio = 0;
        o.max_length = 32;
        o.threads = 1;
        OK(sftmix_job_new(&o, model, &job));
        OK(sftmix_job_start(job));
        sftmix_event event;
        sftmix_event_init(&event);
        for (uint64_t n = 1;; n++) {
            OK(sftmix_job_next_event(job, -1, &event));
            if (event.kind == SFTMIX_EVENT_KIND_NONE)
                break;
            sftmix_event_free(&event);
            OK(sftmix_job_acknowledge(job, n));
        }
        OK(sftmix_job_wait(job, -1, NULL, NULL));
        OK(sftmix_job_free(job));
        OK(sftmix_model_free(model));
        MUST(shell(say("rm -r '%s'", in_work("again"))));
        if (i == 20)
            after20 = held_kb();
    }
    long after200 = held_kb();
    printf("    RssAnon after 20 cycles %ld kB, after 200 %ld kB\n", after20, after200);
    MUST(after20 > 0 && after200 <= after20 + 2048);
}

static void t_silence(void)
{
    size_t length = 1;
    char *text = read_file(in_work("stderr"), &length);
    if (text && length)
        printf("    on stderr: %s\n", text);
    free(text);
    MUST(length == 0);
}

static void run(const char *name, void (*test)(void))
{
    int before = failures;
    double start = now();
    test();
    bool good = failures == before;
    *(good ? &passed : &failed_tests) += 1;
    printf("%s %s (%.2f s)\n", good ? "ok  " : "FAIL", name, now() - start);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    demo = argv[1];
    program = argv[2];
    work = argv[3];
    brief = argc > 4 && strcmp(argv[4], "short") == 0;
    if (!freopen(in_work("stderr"), "w", stderr))
        return 2;
    if (!shell(say("head -20 '%s/train.jsonl' > '%s/few.jsonl'", demo, work)))
        return 2;
    train_rows = strdup(brief ? in_work("few.jsonl") : in_demo("train.jsonl"));
    valid_rows = strdup(brief ? in_work("few.jsonl") : in_demo("valid.jsonl"));
    if (brief)
        rows_of_run = held_out = 20, steps_of_run = 2, threads = 1;
#define RUN(test) run(#test + 2, test)
    RUN(t_version);
    RUN(t_arguments);
    RUN(t_handles);
    RUN(t_names);
    RUN(t_settings_json);
    RUN(t_sizes);
    RUN(t_events);
    RUN(t_rows);
    RUN(t_generate);
    RUN(t_turns);
    RUN(t_reasons);
    RUN(t_ranges);
    RUN(t_wait_idle);
    RUN(t_map);
    RUN(t_fork);
    if (!brief) {
        RUN(t_looks);
        RUN(t_listener);
        RUN(t_two_jobs);
        RUN(t_shared_workers);
        RUN(t_threads);
        RUN(t_log);
        RUN(t_command_line);
        RUN(t_export);
        RUN(t_listener_stops);
        RUN(t_free_in_log);
        RUN(t_freed_for_good);
        RUN(t_resume_model);
        RUN(t_stop_evaluation);
        RUN(t_cancel);
        RUN(t_pause);
        RUN(t_slices);
        RUN(t_update);
        RUN(t_errors);
        if (argc == 4)
            RUN(t_memory);
    }
    RUN(t_silence);
    printf("%d passed, %d failed\n", passed, failed_tests);
    return failed_tests != 0;
}
