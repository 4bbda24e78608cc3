/* Fine-tunes with SFTMix, pauses, cancels and resumes on the way, exports, and generates.
 * cc finetune.c $(pkg-config --cflags --libs sftmix) && ./a.out MODEL OUT     (MODEL has a train.jsonl: assets/demo) */
#include <sftmix.h>
#include <stdio.h>
#include <stdlib.h>

static void check(sftmix_status status)
{
    if (status != SFTMIX_STATUS_OK) {
        printf("error %d: %s\n", status, sftmix_last_error());
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    sftmix_model *model;
    check(sftmix_model_open(argv[1], &model));
    sftmix_train_options options;
    sftmix_train_options_init(&options);
    options.data = argv[1];
    options.out = argv[2];
    options.max_steps = 40;
    options.settings_json = "{\"lr\": 0.001, \"reference_checkpoints\": 2}";
    sftmix_job *job;
    check(sftmix_job_new(&options, model, &job));
    check(sftmix_job_start(job));
    sftmix_event event;
    sftmix_event_init(&event);
    while (check(sftmix_job_next_event(job, -1, &event)), event.kind != SFTMIX_EVENT_KIND_NONE) {
        if (event.kind == SFTMIX_EVENT_KIND_STEP && event.step.global_step % 10 == 0)
            printf("step %d of %d: loss %.3f\n", (int)event.step.global_step, (int)event.step.total_steps, event.step.loss);
        if (event.kind == SFTMIX_EVENT_KIND_STEP && event.step.global_step == 10) {
            check(sftmix_job_pause(job)); /* the user looks elsewhere */
            check(sftmix_job_unpause(job));
        }
        if (event.kind == SFTMIX_EVENT_KIND_STEP && event.step.global_step == 20)
            check(sftmix_job_cancel(job, true)); /* and ends the program */
        check(sftmix_job_acknowledge(job, event.number));
        sftmix_event_free(&event);
    }
    if (sftmix_job_wait(job, -1, NULL, NULL) == SFTMIX_STATUS_STOPPED)
        printf("stopped, %s\n", sftmix_last_error_field("checkpoint"));
    check(sftmix_job_free(job));
    sftmix_report report;
    sftmix_report_init(&report);
    check(sftmix_job_resume(argv[2], NULL, model, &job));
    check(sftmix_job_run(job, &report));
    printf("%d steps, held-out loss %.3f, before %.3f\n", (int)report.steps, report.eval_loss, report.base_eval_loss);
    sftmix_export_options export;
    sftmix_export_options_init(&export);
    export.run = argv[2];
    export.formats = "peft,gguf,mlx";
    check(sftmix_export(&export, model, NULL));
    sftmix_generator *generator;
    check(sftmix_generator_open(model, NULL, SFTMIX_UNSET, &generator));
    check(sftmix_generator_add_adapter(generator, "mine", report.adapter));
    check(sftmix_generator_use_adapter(generator, "mine"));
    sftmix_generation said;
    sftmix_generation_init(&said);
    check(sftmix_generator_generate(generator, "Question: What light does Tremwick show?\nAnswer:", NULL, NULL, NULL, &said));
    printf("it says:%s\n", said.text);
    sftmix_generation_free(&said);
    sftmix_report_free(&report);
    check(sftmix_generator_free(generator));
    check(sftmix_job_free(job));
    check(sftmix_model_free(model));
    return 0;
}
