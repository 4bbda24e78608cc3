/* SFTMix from C: train with a pause, a cancel and a resume, look at the least confident rows, export, generate.
 * cc finetune.c $(pkg-config --cflags --libs sftmix) && sftmix demo --write demo && ./a.out demo/model demo run */
#include <sftmix.h>
#include <stdio.h>
#include <stdlib.h>

#define check(call) ((call) == SFTMIX_STATUS_OK ? (void)0 : exit((puts(sftmix_last_error()), 1)))

int main(int argc, char **argv)
{
    sftmix_train_options options = {.struct_size = 0};
    sftmix_train_options_init(&options);
    options.data = argc == 4 ? argv[2] : "demo", options.out = argc == 4 ? argv[3] : "run";
    options.max_steps = 40;
    options.settings_json = "{\"lr\": 0.001, \"reference_checkpoints\": 2}";
    sftmix_model *model;
    sftmix_job *job;
    check(sftmix_model_open(argc == 4 ? argv[1] : "demo/model", &model));
    check(sftmix_job_new(&options, model, &job)), check(sftmix_job_start(job));
    sftmix_event e = {.struct_size = sizeof e};
    while (check(sftmix_job_next_event(job, -1, &e)), e.kind != SFTMIX_EVENT_KIND_NONE) {
        unsigned long step = e.kind == SFTMIX_EVENT_KIND_STEP ? e.step.global_step : 0;
        if (step && step % 10 == 0)
            printf("step %lu of %lu: loss %.3f\n", step, (unsigned long)e.step.total_steps, e.step.loss);
        if (step == 10) /* something else needs the machine for a moment */
            check(sftmix_job_pause(job)), check(sftmix_job_unpause(job));
        if (step == 20) /* the user ends the program */
            check(sftmix_job_cancel(job, true));
        check(sftmix_job_acknowledge(job, e.number));
        sftmix_event_free(&e);
    }
    if (sftmix_job_wait(job, -1, NULL, NULL) == SFTMIX_STATUS_STOPPED)
        printf("stopped: %s\n", sftmix_last_error_field("checkpoint"));
    check(sftmix_job_free(job)); /* and begins it again, later */
    sftmix_report report = {.struct_size = sizeof report};
    check(sftmix_job_resume(options.out, NULL, model, &job)), check(sftmix_job_run(job, &report));
    printf("%lu steps, held-out loss %.3f -> %.3f\n", (unsigned long)report.steps, report.base_eval_loss, report.eval_loss);
    sftmix_map *map;
    sftmix_map_page page = {.struct_size = sizeof page};
    sftmix_map_query query;
    sftmix_map_query_init(&query);
    query.limit = 10, query.with_text = 1;
    check(sftmix_map_open(options.out, &map)), check(sftmix_map_rows(map, &query, &page));
    for (size_t i = 0; i < page.count; i++) {
        const sftmix_map_row *row = sftmix_map_page_row(&page, i);
        printf("row %lu: confidence %.1f:%s\n", (unsigned long)row->row, row->confidence, row->response);
    }
    sftmix_map_page_free(&page), sftmix_map_free(map);
    sftmix_export_options export;
    sftmix_export_options_init(&export);
    export.run = options.out, export.formats = "peft,gguf,mlx", check(sftmix_export(&export, model, NULL));
    sftmix_generator *generator;
    sftmix_generation said = {.struct_size = sizeof said};
    check(sftmix_generator_open(model, NULL, SFTMIX_UNSET, &generator));
    check(sftmix_generator_add_adapter(generator, "mine", report.adapter)), check(sftmix_generator_use_adapter(generator, "mine"));
    check(sftmix_generator_generate(generator, "Question: What light does Tremwick show?\nAnswer:", NULL, NULL, NULL, &said));
    printf("Tremwick shows%s\n", said.text);
    sftmix_generation_free(&said), sftmix_report_free(&report);
    check(sftmix_generator_free(generator)), check(sftmix_job_free(job)), check(sftmix_model_free(model));
}
