/*
 * sftmix: fine-tuning of language models with SFTMix over LoRA. Written by cbindgen from bindings/c/src; do not edit.
 *
 * Every call returns a sftmix_status, results go through out-pointers, and sftmix_last_error says why this thread's last
 * call failed. Texts are UTF-8. Handles are numbers that are looked up: one that was freed is an error
 * (SFTMIX_STATUS_INVALID_HANDLE) and no more. Structures begin with their size and are set up by their _init macro, which
 * says the size that the program is compiled with to _init_sized. Later versions of the same soname (libsftmix.so.0) add to
 * the end of a structure alone: a program runs with the library that it was compiled against, and with later ones.
 * All functions may be called from any thread. Nothing is ever printed. After a fork the child may not use the library.
 */

#ifndef SFTMIX_H
#define SFTMIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * What an integer of an options structure is that was not set; a number with a fraction is NaN, a text NULL.
 */
#define SFTMIX_UNSET -1

/**
 * What a listener answers: go on.
 */
#define SFTMIX_CONTINUE 0

/**
 * What a listener answers: write a checkpoint and stop.
 */
#define SFTMIX_STOP 1

/**
 * What a listener answers: it failed. The job writes a checkpoint and ends with `SFTMIX_STATUS_CALLBACK`; the reason is
 * what `sftmix_callback_failed` was told.
 */
#define SFTMIX_FAIL 2

/**
 * What a call returns. Each number stays what it is; a later version may add some.
 */
typedef enum sftmix_status {
  /**
   * It worked.
   */
  SFTMIX_STATUS_OK = 0,
  /**
   * A file could not be read or written: `path`, `reason`.
   */
  SFTMIX_STATUS_IO = 1,
  /**
   * A setting is out of range, contradicts another or the run that is resumed: `field`, `reason`.
   */
  SFTMIX_STATUS_INVALID_CONFIG = 2,
  /**
   * The model is of a kind that is not supported: `path`, `reason`.
   */
  SFTMIX_STATUS_MODEL_NOT_SUPPORTED = 3,
  /**
   * A file of the model is damaged: `path`, `tensor`, `reason`.
   */
  SFTMIX_STATUS_MODEL_FORMAT = 4,
  /**
   * The tokenizer could not be read or used: `path`, `reason`.
   */
  SFTMIX_STATUS_TOKENIZER = 5,
  /**
   * A chat template cannot be used, or refuses a conversation: `path`, `reason`.
   */
  SFTMIX_STATUS_CHAT_TEMPLATE = 6,
  /**
   * A row of the data cannot be used: `path`, `row`, `reason`.
   */
  SFTMIX_STATUS_DATA_INVALID = 7,
  /**
   * No example is left to train on: `reason`.
   */
  SFTMIX_STATUS_NOTHING_TO_TRAIN = 8,
  /**
   * A stage ended with every trained number as it began: `reason`.
   */
  SFTMIX_STATUS_NOTHING_TRAINED = 9,
  /**
   * An adapter is damaged or does not fit the model: `path`, `reason`.
   */
  SFTMIX_STATUS_ADAPTER = 10,
  /**
   * An adapter was trained on another base: `adapter`, `what`, `trained_on`, `expected`, `base`, `found`.
   */
  SFTMIX_STATUS_BASE_MISMATCH = 11,
  /**
   * What was written is not what it was made from: `path`, `what`, `difference`, `bound`.
   */
  SFTMIX_STATUS_EXPORT_MISMATCH = 12,
  /**
   * A dynamics log is damaged or does not fit the data: `path`, `reason`.
   */
  SFTMIX_STATUS_DYNAMICS = 13,
  /**
   * A run folder or checkpoint is damaged or in the way: `path`, `reason`.
   */
  SFTMIX_STATUS_CHECKPOINT = 14,
  /**
   * A loss or gradient stopped being a finite number: `what`.
   */
  SFTMIX_STATUS_NON_FINITE = 15,
  /**
   * The job was stopped: `checkpoint`, where one was written.
   */
  SFTMIX_STATUS_STOPPED = 16,
  /**
   * The device is absent or does not work: `device`, `reason`.
   */
  SFTMIX_STATUS_DEVICE = 17,
  /**
   * The device has too little memory: `reason`.
   */
  SFTMIX_STATUS_DEVICE_MEMORY = 18,
  /**
   * More memory is needed than was granted: `limit`, `needed` (bytes), `savings` (a JSON list of changes and bytes).
   */
  SFTMIX_STATUS_MEMORY_LIMIT = 19,
  /**
   * An operation on tensors failed: `reason`.
   */
  SFTMIX_STATUS_TENSOR = 20,
  /**
   * The caller broke what the function asks for: `reason`.
   */
  SFTMIX_STATUS_MISUSE = 21,
  /**
   * A callback said that it failed: `reason`.
   */
  SFTMIX_STATUS_CALLBACK = 22,
  /**
   * Threads could not be started, or one panicked: `reason`.
   */
  SFTMIX_STATUS_THREADS = 23,
  /**
   * A folder holds no dynamics log: `path`; `taken_from`, the earlier run that the run took its dynamics from.
   */
  SFTMIX_STATUS_NO_DYNAMICS = 24,
  /**
   * A model of this name is not in the local cache: `name`, `cache`, `reason`; the message says the command that downloads it.
   */
  SFTMIX_STATUS_MODEL_NOT_FOUND = 25,
  /**
   * A model could not be downloaded; what was fetched of it stays: `url`, `reason`.
   */
  SFTMIX_STATUS_DOWNLOAD = 26,
  /**
   * An error that this interface has no number for: `reason`.
   */
  SFTMIX_STATUS_OTHER = 99,
  /**
   * An argument is NULL, no UTF-8, or a structure of no known size: `field`, `reason`.
   */
  SFTMIX_STATUS_INVALID_ARGUMENT = 100,
  /**
   * A handle was freed, is of another kind, or never was one: `reason`.
   */
  SFTMIX_STATUS_INVALID_HANDLE = 101,
  /**
   * The process was forked after the library was used; the child cannot use it: `reason`.
   */
  SFTMIX_STATUS_FORKED = 102,
  /**
   * A fault in the library; what the call worked on may be in no good state: `reason`.
   */
  SFTMIX_STATUS_PANIC = 103,
} sftmix_status;

/**
 * What an event is about.
 */
typedef enum sftmix_event_kind {
  /**
   * No event: none came in time, or the job is not running and has none left.
   */
  SFTMIX_EVENT_KIND_NONE = 0,
  /**
   * The rows are tokens and the model is open: `prepared`.
   */
  SFTMIX_EVENT_KIND_PREPARED = 1,
  /**
   * A step is done: `step`.
   */
  SFTMIX_EVENT_KIND_STEP = 2,
  /**
   * The held-out rows were evaluated: `evaluated`.
   */
  SFTMIX_EVENT_KIND_EVALUATED = 3,
  /**
   * The held-out loss no longer improves, and the run ends here: `json`.
   */
  SFTMIX_EVENT_KIND_STOPPED_EARLY = 4,
  /**
   * A sweep goes on: `sweep`.
   */
  SFTMIX_EVENT_KIND_SWEEP = 5,
  /**
   * The rows are split into halves: `split`.
   */
  SFTMIX_EVENT_KIND_SPLIT = 6,
  /**
   * A checkpoint is on disk: `text` is its folder.
   */
  SFTMIX_EVENT_KIND_CHECKPOINT = 7,
  /**
   * Limits came into force: `limits`, and `text` says why what was asked for did not, where it did not.
   */
  SFTMIX_EVENT_KIND_LIMITS = 8,
  /**
   * One that this interface has no number for: `json`.
   */
  SFTMIX_EVENT_KIND_OTHER = 99,
} sftmix_event_kind;

/**
 * Which part of a run.
 */
typedef enum sftmix_stage {
  /**
   * None yet.
   */
  SFTMIX_STAGE_NONE = 0,
  /**
   * The untouched model.
   */
  SFTMIX_STAGE_BASE = 1,
  /**
   * The reference run.
   */
  SFTMIX_STAGE_REFERENCE = 2,
  /**
   * The run that gives the adapter.
   */
  SFTMIX_STAGE_TARGET = 3,
  /**
   * The only run.
   */
  SFTMIX_STAGE_SINGLE = 4,
  /**
   * One that this interface has no number for.
   */
  SFTMIX_STAGE_OTHER = 99,
} sftmix_stage;

/**
 * What a job is at.
 */
typedef enum sftmix_job_state {
  /**
   * Not begun, or between two slices.
   */
  SFTMIX_JOB_STATE_IDLE = 0,
  /**
   * It reads rows and opens the model.
   */
  SFTMIX_JOB_STATE_PREPARING = 1,
  /**
   * It computes.
   */
  SFTMIX_JOB_STATE_RUNNING = 2,
  /**
   * It was asked to pause and finishes a micro-batch and a checkpoint.
   */
  SFTMIX_JOB_STATE_PAUSING = 3,
  /**
   * It waits, with what it has done on disk.
   */
  SFTMIX_JOB_STATE_PAUSED = 4,
  /**
   * It was asked to stop and finishes a micro-batch and a checkpoint.
   */
  SFTMIX_JOB_STATE_STOPPING = 5,
  /**
   * It has ended with an adapter.
   */
  SFTMIX_JOB_STATE_DONE = 6,
  /**
   * It was stopped; it can be taken up.
   */
  SFTMIX_JOB_STATE_CANCELLED = 7,
  /**
   * It has ended with an error.
   */
  SFTMIX_JOB_STATE_FAILED = 8,
  /**
   * One that this interface has no number for.
   */
  SFTMIX_JOB_STATE_OTHER = 99,
} sftmix_job_state;

/**
 * A half of the rows.
 */
typedef enum sftmix_half {
  /**
   * Of neither.
   */
  SFTMIX_HALF_NEITHER = 0,
  /**
   * The confident half.
   */
  SFTMIX_HALF_CONFIDENT = 1,
  /**
   * The unconfident half.
   */
  SFTMIX_HALF_UNCONFIDENT = 2,
} sftmix_half;

/**
 * A resident model that generates, with one of its adapters or without. One text at a time: who comes while another is
 * generated waits.
 */
typedef struct sftmix_generator sftmix_generator;

/**
 * A training run: set up, run on a thread of its own or on the caller's, steered from any thread.
 */
typedef struct sftmix_job sftmix_job;

/**
 * The data map of a run, on the checkpoints that were whole when it was opened. The log stays in its files.
 */
typedef struct sftmix_map sftmix_map;

/**
 * A model that is open. Any number of jobs, generators and calls may work on one at the same time, and all share its
 * mapped weights; its files must stay as they are while it lives.
 */
typedef struct sftmix_model sftmix_model;

/**
 * What breaks off a call that it was given to. It may be given to several, and stays as it is once it was used: a call that
 * is given a used one is broken off as it begins.
 */
typedef struct sftmix_stop_handle sftmix_stop_handle;

/**
 * What to evaluate. `sftmix_eval_options_init` sets nothing, and what is not set has the library's default.
 */
typedef struct sftmix_eval_options {
  /**
   * Bytes of the structure, set by `sftmix_eval_options_init`.
   */
  size_t struct_size;
  /**
   * Model folder or GGUF file; NULL where the call is given a model.
   */
  const char *model;
  /**
   * PEFT adapter folder; NULL evaluates the model as it is.
   */
  const char *adapter;
  /**
   * The rows: a file, or a folder with `test.jsonl` or of texts.
   */
  const char *data;
  /**
   * A word as in `sftmix_train_options`.
   */
  const char *device;
  /**
   * Where tokenised rows are kept.
   */
  const char *cache_dir;
  /**
   * How rows become examples: a JSON object of `data_format`, `prompt_field` and the like.
   */
  const char *data_options_json;
  /**
   * Longest row, tokens.
   */
  int64_t max_length;
  /**
   * Most rows that run together.
   */
  int64_t batch_size;
  /**
   * Worker threads.
   */
  int64_t threads;
  /**
   * 1 takes the adapter whatever base it names.
   */
  int64_t force;
  /**
   * What breaks the evaluation off; NULL for nothing.
   */
  const struct sftmix_stop_handle *stop;
} sftmix_eval_options;

/**
 * Figures of a model on rows. Set up by `sftmix_evaluation_init`; holds nothing that must be freed.
 */
typedef struct sftmix_evaluation {
  /**
   * Bytes of the structure, set by `sftmix_evaluation_init`.
   */
  size_t struct_size;
  /**
   * Examples.
   */
  uint64_t examples;
  /**
   * Supervised tokens.
   */
  uint64_t supervised_tokens;
  /**
   * Mean -log p of a supervised token, nats.
   */
  double nll;
  /**
   * Its exponential.
   */
  double perplexity;
  /**
   * Share of supervised tokens that are the likeliest.
   */
  double token_accuracy;
  /**
   * Share of examples all of whose supervised tokens are.
   */
  double exact_match;
  /**
   * Expected calibration error of the likeliest tokens, 15 bins.
   */
  double ece;
} sftmix_evaluation;

/**
 * A step.
 */
typedef struct sftmix_step {
  /**
   * Part of the run.
   */
  enum sftmix_stage stage;
  /**
   * Steps done in the stage.
   */
  uint64_t step;
  /**
   * Steps done in all stages.
   */
  uint64_t global_step;
  /**
   * Steps of all stages.
   */
  uint64_t total_steps;
  /**
   * Epochs done in the stage.
   */
  double epoch;
  /**
   * `ntp_loss` and the weighed Mixup loss, nats a token.
   */
  double loss;
  /**
   * Mean -log p of the supervised tokens.
   */
  double ntp_loss;
  /**
   * Mixup loss; NaN where the step does not mix.
   */
  double mixup_loss;
  /**
   * Gradient norm before clipping.
   */
  double grad_norm;
  /**
   * Learning rate.
   */
  double learning_rate;
  /**
   * Tokens seen since the run began.
   */
  uint64_t num_tokens;
  /**
   * Share of supervised tokens that are the likeliest.
   */
  double mean_token_accuracy;
  /**
   * Tokens a second.
   */
  double tokens_per_second;
  /**
   * Seconds since the run began, over its resumptions.
   */
  double elapsed_seconds;
  /**
   * Seconds that the rest is expected to take.
   */
  double eta_seconds;
  /**
   * Peak anonymous memory of the process, bytes.
   */
  uint64_t peak_anonymous_bytes;
} sftmix_step;

/**
 * An evaluation.
 */
typedef struct sftmix_evaluated {
  /**
   * Part of the run.
   */
  enum sftmix_stage stage;
  /**
   * Steps done in all stages.
   */
  uint64_t global_step;
  /**
   * Mean -log p of a supervised token, nats.
   */
  double eval_loss;
  /**
   * Its exponential.
   */
  double eval_perplexity;
  /**
   * Share of supervised tokens that are the likeliest.
   */
  double eval_token_accuracy;
  /**
   * Whether it is the lowest of those that count.
   */
  bool is_best;
} sftmix_evaluated;

/**
 * How far a sweep is.
 */
typedef struct sftmix_sweep {
  /**
   * Which, from 1.
   */
  uint64_t number;
  /**
   * Of how many.
   */
  uint64_t of;
  /**
   * Examples scored.
   */
  uint64_t done;
  /**
   * Examples in all.
   */
  uint64_t total;
} sftmix_sweep;

/**
 * The halves.
 */
typedef struct sftmix_split {
  /**
   * Confident examples.
   */
  uint64_t confident;
  /**
   * Unconfident examples.
   */
  uint64_t unconfident;
  /**
   * Examples of neither half.
   */
  uint64_t neither;
} sftmix_split;

/**
 * What a job found.
 */
typedef struct sftmix_prepared {
  /**
   * Examples to train on.
   */
  uint64_t examples;
  /**
   * Examples held out; 0 without.
   */
  uint64_t valid_examples;
  /**
   * Tokens of the training set.
   */
  uint64_t tokens;
  /**
   * Supervised ones of these.
   */
  uint64_t supervised_tokens;
  /**
   * Trained numbers.
   */
  uint64_t parameters;
  /**
   * Steps of all stages.
   */
  uint64_t total_steps;
  /**
   * Rows that run together.
   */
  uint64_t micro_batch;
  /**
   * Worker threads.
   */
  uint64_t threads;
  /**
   * Steps done before; more than 0 where a run is resumed.
   */
  uint64_t resumed_at;
} sftmix_prepared;

/**
 * What a job may take of the machine. `sftmix_limits_init` sets nothing, and what is not set stays as it is. It lies by
 * value in `sftmix_event` and `sftmix_job_info`, so it stays as it is for as long as the library's soname does.
 */
typedef struct sftmix_limits {
  /**
   * Bytes of the structure, set by `sftmix_limits_init`.
   */
  size_t struct_size;
  /**
   * Worker threads, 1 to 1024; `SFTMIX_UNSET`.
   */
  int64_t threads;
  /**
   * Share of the time in which it computes, more than 0 and at most 1; NaN.
   */
  double duty_cycle;
  /**
   * Bytes that the library may hold; `SFTMIX_UNSET`.
   */
  int64_t memory_limit;
} sftmix_limits;

/**
 * Something that happened in a job. Set up by `sftmix_event_init`; what `sftmix_job_next_event` has filled is freed by
 * `sftmix_event_free`. Of the parts only the one that `kind` names is filled, the others are zero.
 *
 * The parts lie in it by value and stay as they are for as long as the library's soname does: what a later version tells
 * beside, it tells in `json`, or in parts behind the last.
 */
typedef struct sftmix_event {
  /**
   * Bytes of the structure, set by `sftmix_event_init`.
   */
  size_t struct_size;
  /**
   * Its number, for `sftmix_job_acknowledge`; 0 in a listener.
   */
  uint64_t number;
  /**
   * What it is about.
   */
  enum sftmix_event_kind kind;
  /**
   * All of it as JSON: of steps and evaluations the line of `metrics.jsonl`. The event's own.
   */
  char *json;
  /**
   * A text, where `kind` says so; otherwise NULL. The event's own.
   */
  char *text;
  /**
   * Of `SFTMIX_EVENT_KIND_STEP`.
   */
  struct sftmix_step step;
  /**
   * Of `SFTMIX_EVENT_KIND_EVALUATED`.
   */
  struct sftmix_evaluated evaluated;
  /**
   * Of `SFTMIX_EVENT_KIND_SWEEP`.
   */
  struct sftmix_sweep sweep;
  /**
   * Of `SFTMIX_EVENT_KIND_SPLIT`.
   */
  struct sftmix_split split;
  /**
   * Of `SFTMIX_EVENT_KIND_PREPARED`.
   */
  struct sftmix_prepared prepared;
  /**
   * Of `SFTMIX_EVENT_KIND_LIMITS`.
   */
  struct sftmix_limits limits;
} sftmix_event;

/**
 * Which adapter, on which base, and what to make of it. `sftmix_export_options_init` sets nothing, and what is not set has
 * the library's default.
 */
typedef struct sftmix_export_options {
  /**
   * Bytes of the structure, set by `sftmix_export_options_init`.
   */
  size_t struct_size;
  /**
   * A run folder: its adapter, base and held-out rows, where the others leave them open.
   */
  const char *run;
  /**
   * The base; NULL where the call is given a model, or the run's.
   */
  const char *model;
  /**
   * A PEFT adapter folder; NULL for the run's.
   */
  const char *adapter;
  /**
   * Rows to compare logits on.
   */
  const char *data;
  /**
   * How these rows become examples: a JSON object of `data_format`, `prompt_field` and the like.
   */
  const char *data_options_json;
  /**
   * Where hashes and tokenised rows are kept.
   */
  const char *cache_dir;
  /**
   * Of an export a folder that gets one for each format (NULL: `export` in the run folder), of a merge the folder or
   * file of the merged model.
   */
  const char *out;
  /**
   * Of an export: `peft`, `gguf`, `mlx`, or several with commas between.
   */
  const char *formats;
  /**
   * Of a merge: write a GGUF file of this type, such as `q4_k_m`, instead of a folder.
   */
  const char *gguf;
  /**
   * Of a merge: type of the stored numbers, such as `bf16`; NULL keeps that of each tensor.
   */
  const char *dtype;
  /**
   * Worker threads, 1 to 1024.
   */
  int64_t threads;
  /**
   * 1 takes the adapter whatever base it names.
   */
  int64_t force;
} sftmix_export_options;

/**
 * How text is generated. `sftmix_generate_options_init` sets nothing, and what is not set has the library's default.
 */
typedef struct sftmix_generate_options {
  /**
   * Bytes of the structure, set by `sftmix_generate_options_init`.
   */
  size_t struct_size;
  /**
   * Most tokens to generate, at least 1.
   */
  int64_t max_new_tokens;
  /**
   * 0 and more; 0 takes the likeliest token each time.
   */
  double temperature;
  /**
   * Samples from so many likeliest tokens, at least 1.
   */
  int64_t top_k;
  /**
   * Samples from the fewest tokens whose probabilities add up to this, more than 0 and at most 1.
   */
  double top_p;
  /**
   * Samples from tokens that are at least this likely, relative to the likeliest, 0 to 1.
   */
  double min_p;
  /**
   * More than 0; 1 changes nothing.
   */
  double repetition_penalty;
  /**
   * Seed of the sampling, 0 and more.
   */
  int64_t seed;
  /**
   * The text ends before the first of these; `stop_count` of them.
   */
  const char *const *stop;
  /**
   * How many.
   */
  size_t stop_count;
} sftmix_generate_options;

/**
 * What was generated. Set up by `sftmix_generation_init`; what a call has filled is freed by `sftmix_generation_free`.
 */
typedef struct sftmix_generation {
  /**
   * Bytes of the structure, set by `sftmix_generation_init`.
   */
  size_t struct_size;
  /**
   * The text, without the prompt, the end token and the stop string.
   */
  char *text;
  /**
   * The stop string that ended it; otherwise NULL.
   */
  char *stop;
  /**
   * Tokens of the prompt.
   */
  uint64_t prompt_tokens;
  /**
   * Those of them that an earlier turn had left.
   */
  uint64_t cached_tokens;
  /**
   * Tokens generated.
   */
  uint64_t new_tokens;
  /**
   * Seconds from prompt to first token.
   */
  double prompt_seconds;
  /**
   * Seconds from prompt to last token.
   */
  double seconds;
  /**
   * It ended with an end token or a stop string, not by a limit or the caller.
   */
  bool stopped;
  /**
   * It was cancelled, or its callback said `false`.
   */
  bool cancelled;
} sftmix_generation;

/**
 * Is told a piece of text, which is the library's and stays until it returns; it may be empty. `false` ends the text
 * there. It is called on the thread that asked for the text, and may call any function but those of its generator that
 * wait for it.
 */
typedef bool (*sftmix_text_callback)(void *user_data, const char *piece);

/**
 * What to train: `sftmix_train_options_init` sets nothing, and what is not set has the library's default. A text is
 * copied by the call that it is given to.
 */
typedef struct sftmix_train_options {
  /**
   * Bytes of the structure, set by `sftmix_train_options_init`.
   */
  size_t struct_size;
  /**
   * Hugging Face model folder or GGUF file; NULL where the call is given a model.
   */
  const char *model;
  /**
   * Rows to train on: a file or folder. Several, with weights, go by `settings_json`.
   */
  const char *data;
  /**
   * Run folder; holds no run yet.
   */
  const char *out;
  /**
   * Held-out rows.
   */
  const char *valid;
  /**
   * `sftmix` or `ntp`.
   */
  const char *recipe;
  /**
   * `sweep`, `online`, `single`, or an earlier run.
   */
  const char *dynamics;
  /**
   * `auto`, `cpu`, `cuda`, `cuda:1`, `metal`, `portable`.
   */
  const char *device;
  /**
   * PEFT adapter to start from.
   */
  const char *init_adapter;
  /**
   * Where tokenised rows and hashes are kept.
   */
  const char *cache_dir;
  /**
   * Passes over the rows.
   */
  int64_t epochs;
  /**
   * Stop each stage after so many steps.
   */
  int64_t max_steps;
  /**
   * Rows of a step.
   */
  int64_t batch_size;
  /**
   * Rows that run together.
   */
  int64_t micro_batch;
  /**
   * Longest row, tokens.
   */
  int64_t max_length;
  /**
   * Rank of the adapter.
   */
  int64_t lora_r;
  /**
   * Seed of all that is drawn, 0 and more.
   */
  int64_t seed;
  /**
   * Worker threads.
   */
  int64_t threads;
  /**
   * Bytes that the library may hold, mapped weights not counted.
   */
  int64_t memory_limit;
  /**
   * Bytes that the process may have resident, mapped weights counted.
   */
  int64_t resident_limit;
  /**
   * Steps from checkpoint to checkpoint.
   */
  int64_t save_every;
  /**
   * Checkpoints that stay.
   */
  int64_t keep;
  /**
   * Steps from evaluation to evaluation.
   */
  int64_t eval_every;
  /**
   * Evaluations without improvement that end the run.
   */
  int64_t early_stopping_patience;
  /**
   * Epochs of the reference run.
   */
  int64_t reference_epochs;
  /**
   * Checkpoints of the reference run that are scored.
   */
  int64_t reference_checkpoints;
  /**
   * Peak learning rate.
   */
  double lr;
  /**
   * Weight of the Mixup term.
   */
  double mu;
  /**
   * The adapter's alpha.
   */
  double lora_alpha;
  /**
   * The adapter's dropout.
   */
  double lora_dropout;
  /**
   * Share of the steps in which the rate rises.
   */
  double warmup_ratio;
  /**
   * Decoupled weight decay.
   */
  double weight_decay;
  /**
   * Largest gradient norm.
   */
  double clip;
  /**
   * Share of the rows that is held out.
   */
  double valid_split;
  /**
   * Any settings by name as a JSON object, under the command line's names with `_`. What is set above, too, is an error.
   */
  const char *settings_json;
} sftmix_train_options;

/**
 * Gives the next row, a JSON object as UTF-8, or NULL behind the last. The text is the caller's and must stay until the
 * next call or, for the last one, until the job has begun to train; it is copied. To fail, it sets `*failed`, and may say
 * why by `sftmix_callback_failed`.
 */
typedef const char *(*sftmix_next_row)(void *user_data, bool *failed);

/**
 * Is told an event, which is the library's and stays until it returns, and answers `SFTMIX_CONTINUE`, `SFTMIX_STOP` or
 * `SFTMIX_FAIL`.
 */
typedef int (*sftmix_listener)(void *user_data, const struct sftmix_event *event);

/**
 * What a finished run says. Set up by `sftmix_report_init`; what a call has filled is freed by `sftmix_report_free`.
 */
typedef struct sftmix_report {
  /**
   * Bytes of the structure, set by `sftmix_report_init`.
   */
  size_t struct_size;
  /**
   * The run folder.
   */
  char *run;
  /**
   * The adapter's folder.
   */
  char *adapter;
  /**
   * The whole report as JSON, in the words of `sftmix train --json`.
   */
  char *json;
  /**
   * Optimizer steps of all stages.
   */
  uint64_t steps;
  /**
   * Mean loss of the final stage, nats a token.
   */
  double train_loss;
  /**
   * Held-out loss of the untouched base; NaN without held-out rows.
   */
  double base_eval_loss;
  /**
   * Held-out loss of the adapter; NaN without held-out rows.
   */
  double eval_loss;
  /**
   * The lowest held-out loss; NaN where none counts.
   */
  double best_eval_loss;
  /**
   * Steps that were done then.
   */
  uint64_t best_step;
  /**
   * Examples trained on.
   */
  uint64_t examples;
  /**
   * Rows that lost their tail to the limit of length.
   */
  uint64_t rows_cut;
  /**
   * Rows that gave no example.
   */
  uint64_t rows_dropped;
  /**
   * Seconds over all resumptions.
   */
  double seconds;
  /**
   * Peak anonymous memory of the process, bytes.
   */
  uint64_t peak_anonymous_bytes;
  /**
   * Whether the held-out loss no longer improved.
   */
  bool stopped_early;
  /**
   * Rows that are no examples and were left out, as `bad_rows` allows; run.json has the reasons.
   */
  uint64_t rows_skipped;
} sftmix_report;

/**
 * A job at a glance. Set up by `sftmix_job_info_init`; holds nothing that must be freed.
 */
typedef struct sftmix_job_info {
  /**
   * Bytes of the structure, set by `sftmix_job_info_init`.
   */
  size_t struct_size;
  /**
   * What it is at.
   */
  enum sftmix_job_state state;
  /**
   * Part of the run.
   */
  enum sftmix_stage stage;
  /**
   * Steps done in all stages.
   */
  uint64_t global_step;
  /**
   * Steps of all stages; 0 until it is known.
   */
  uint64_t total_steps;
  /**
   * Epochs done in the stage.
   */
  double epoch;
  /**
   * Loss of the last step, nats a token; NaN before one.
   */
  double loss;
  /**
   * Held-out loss of the last evaluation; NaN before one.
   */
  double eval_loss;
  /**
   * Tokens a second of the last step.
   */
  double tokens_per_second;
  /**
   * Seconds over all resumptions, at the last step.
   */
  double elapsed_seconds;
  /**
   * Seconds that the rest was expected to take; NaN before a step.
   */
  double eta_seconds;
  /**
   * Peak anonymous memory, bytes.
   */
  uint64_t peak_anonymous_bytes;
  /**
   * Limits that are in force beside the settings.
   */
  struct sftmix_limits limits;
} sftmix_job_info;

/**
 * Is told a line of the log: its level (1 error, 2 warning, 3 information, 4 debug, 5 trace), the part of the library it
 * is from, and the text. Both texts stay until it returns. It may be called from any thread, several at once.
 */
typedef void (*sftmix_log_callback)(void *user_data, int level, const char *target, const char *message);

/**
 * What a run will take. Set up by `sftmix_run_plan_init`; holds nothing that must be freed.
 */
typedef struct sftmix_run_plan {
  /**
   * Bytes of the structure, set by `sftmix_run_plan_init`.
   */
  size_t struct_size;
  /**
   * Bytes that were granted; `SFTMIX_UNSET` without a limit.
   */
  int64_t memory_limit;
  /**
   * Most bytes at once; where it does not fit, the least that would be needed.
   */
  uint64_t predicted_peak_bytes;
  /**
   * Examples.
   */
  uint64_t examples;
  /**
   * Tokens of an epoch.
   */
  uint64_t tokens;
  /**
   * Supervised ones of these.
   */
  uint64_t supervised_tokens;
  /**
   * Tokens of the longest row.
   */
  uint64_t longest;
  /**
   * Optimizer steps of all stages.
   */
  uint64_t steps;
  /**
   * Most rows that run together; 0 where it does not fit.
   */
  uint64_t micro_batch;
  /**
   * About how long it will take; NaN where it does not fit.
   */
  double seconds;
  /**
   * Whether it stays within the limit; without one it does.
   */
  bool fits;
} sftmix_run_plan;

/**
 * What to look at. `sftmix_inspect_options_init` sets nothing, and what is not set has the library's default.
 */
typedef struct sftmix_inspect_options {
  /**
   * Bytes of the structure, set by `sftmix_inspect_options_init`.
   */
  size_t struct_size;
  /**
   * Model folder or GGUF file, whose tokenizer is all that is read.
   */
  const char *model;
  /**
   * The rows, as for training.
   */
  const char *data;
  /**
   * How rows become examples: a JSON object of `data_format`, `prompt_field` and the like.
   */
  const char *data_options_json;
  /**
   * The one row to show, from 1.
   */
  int64_t row;
  /**
   * Rows to show.
   */
  int64_t rows;
  /**
   * Longest example, tokens.
   */
  int64_t max_length;
  /**
   * Threads that tokenise.
   */
  int64_t threads;
} sftmix_inspect_options;

/**
 * What a page of a map is asked by. `sftmix_map_query_init` sets nothing, which is the 100 least confident examples without
 * their texts.
 */
typedef struct sftmix_map_query {
  /**
   * Bytes of the structure, set by `sftmix_map_query_init`.
   */
  size_t struct_size;
  /**
   * `confidence`, `mean_probability`, `variability`, `correctness`, `forgetfulness`, `mean_perplexity`, `mean_nll`,
   * `tokens` or `row`; NaN comes last.
   */
  const char *sort_by;
  /**
   * `confident`, `unconfident` or `neither` alone.
   */
  const char *half;
  /**
   * Bounds that all must hold: a JSON list of objects with `key` (as in `sort_by`), `min` and `max`.
   */
  const char *filters_json;
  /**
   * 1: greatest first.
   */
  int64_t descending;
  /**
   * Rows before the page.
   */
  int64_t offset;
  /**
   * Most rows of the page, 1 to 10000.
   */
  int64_t limit;
  /**
   * 1: with the rows' texts, for which the data files are read.
   */
  int64_t with_text;
} sftmix_map_query;

/**
 * An example and what the checkpoints say of it. A later version may have more of it, behind the last.
 */
typedef struct sftmix_map_row {
  /**
   * Its place in the set, from 0.
   */
  uint64_t index;
  /**
   * Number of the row in its file, from 1.
   */
  uint64_t row;
  /**
   * The place of the file among the run's, from 0.
   */
  uint64_t file_index;
  /**
   * The file; NULL where it is not known. The page's own, as the other texts.
   */
  char *file;
  /**
   * What comes before the response; NULL without text.
   */
  char *prompt;
  /**
   * What is trained; NULL without text.
   */
  char *response;
  /**
   * Why there is no text, where it was asked for; otherwise NULL.
   */
  char *text_absent;
  /**
   * The half that it is in.
   */
  enum sftmix_half half;
  /**
   * SFTMix's confidence: minus the mean perplexity or NLL.
   */
  double confidence;
  /**
   * Mean perplexity.
   */
  double mean_perplexity;
  /**
   * Mean NLL, nats a token.
   */
  double mean_nll;
  /**
   * Mean probability: cartography's confidence.
   */
  double mean_probability;
  /**
   * Standard deviation of the probability.
   */
  double variability;
  /**
   * Checkpoints that predict at least half of the tokens.
   */
  uint64_t correctness;
  /**
   * Changes from such a checkpoint to one that does not; 1000 if there is none.
   */
  uint64_t forgetfulness;
  /**
   * Supervised tokens.
   */
  uint64_t tokens;
} sftmix_map_row;

/**
 * A page of a map. Set up by `sftmix_map_page_init`; what a call has filled is freed by `sftmix_map_page_free`.
 */
typedef struct sftmix_map_page {
  /**
   * Bytes of the structure, set by `sftmix_map_page_init`.
   */
  size_t struct_size;
  /**
   * Examples that the filters leave, over all pages.
   */
  uint64_t total;
  /**
   * Rows of this page.
   */
  size_t count;
  /**
   * So many rows, in the order that was asked for; the page's own. `sftmix_map_page_row` gives one.
   */
  struct sftmix_map_row *rows;
  /**
   * Bytes from one row to the next, which a later library may have more of than `sizeof(sftmix_map_row)`.
   */
  size_t row_size;
} sftmix_map_page;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library, as `0.1.0`. The text is the library's and stays.
 */
const char *sftmix_version(void);

/**
 * Frees a text that a function gave out and whose description says so. NULL is fine. From any thread.
 */
void sftmix_string_free(char *text);

/**
 * Sets nothing, in a structure of which the caller has so many bytes: `sftmix_eval_options_init` says how many. NULL is left alone.
 */
void sftmix_eval_options_init_sized(struct sftmix_eval_options *options,
                                    size_t size);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_evaluation_init` says how many. NULL is left alone.
 */
void sftmix_evaluation_init_sized(struct sftmix_evaluation *evaluation,
                                  size_t size);

/**
 * Mean loss, perplexity and accuracy of a model, with or without an adapter, over the supervised tokens of rows. The model
 * may be NULL, then the options name it. `evaluation` and `json_out`, which gets the words of `sftmix eval --json`, may
 * be NULL. One that is broken off by `stop` of its options ends with `SFTMIX_STATUS_STOPPED`, within a batch.
 *
 * `*json_out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_evaluate(const struct sftmix_eval_options *options,
                                   const struct sftmix_model *model,
                                   struct sftmix_evaluation *evaluation,
                                   char **json_out);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_event_init` says how many. NULL is left alone.
 */
void sftmix_event_init_sized(struct sftmix_event *event,
                             size_t size);

/**
 * Frees the texts of an event and sets them to NULL; again, or with NULL, does nothing.
 */
void sftmix_event_free(struct sftmix_event *event);

/**
 * Sets nothing, in a structure of which the caller has so many bytes: `sftmix_export_options_init` says how many. NULL is left alone.
 */
void sftmix_export_options_init_sized(struct sftmix_export_options *options,
                                      size_t size);

/**
 * Writes an adapter in other formats: all that are asked for, or none. What is written is read again and compared with
 * the adapter. The model may be NULL. `json_out`, which gets the words of `sftmix export --json`, may be NULL.
 *
 * `*json_out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_export(const struct sftmix_export_options *options,
                                 const struct sftmix_model *model,
                                 char **json_out);

/**
 * Merges an adapter into its base: a model folder like the base's, or a GGUF file. The model may be NULL. `json_out`,
 * which gets the words of `sftmix merge --json`, may be NULL.
 *
 * `*json_out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_merge(const struct sftmix_export_options *options,
                                const struct sftmix_model *model,
                                char **json_out);

/**
 * Why the last call of this thread that failed did so, in a sentence; empty before any. Never NULL; the text is the
 * library's and stays until the next call of this thread that fails.
 */
const char *sftmix_last_error(void);

/**
 * The status of the last call of this thread that failed; `SFTMIX_STATUS_OK` before any.
 */
enum sftmix_status sftmix_last_error_status(void);

/**
 * A part of this thread's last error by its name, such as `path`, `row`, `field`, `reason`, `needed`, `limit`,
 * `checkpoint`: `sftmix_status` says which it has. NULL where it has none of this name. The text is the library's and
 * stays until the next call of this thread that fails.
 */
const char *sftmix_last_error_field(const char *name);

/**
 * For a callback that fails: says why, before it returns. The text (copied) becomes the `reason` of the
 * `SFTMIX_STATUS_CALLBACK` that the call or job ends with. NULL says nothing. What is said outside of a callback, or by one
 * that then answers that it did not fail, is forgotten.
 */
void sftmix_callback_failed(const char *reason);

/**
 * Sets nothing, in a structure of which the caller has so many bytes: `sftmix_generate_options_init` says how many. NULL is left alone.
 */
void sftmix_generate_options_init_sized(struct sftmix_generate_options *options,
                                        size_t size);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_generation_init` says how many. NULL is left alone.
 */
void sftmix_generation_init_sized(struct sftmix_generation *generation,
                                  size_t size);

/**
 * Frees the texts of a generation and sets them to NULL; again, or with NULL, does nothing.
 */
void sftmix_generation_free(struct sftmix_generation *generation);

/**
 * Takes a model that is open into use on a device (a word as in `sftmix_train_options`; NULL is `auto`), without an
 * adapter. `threads` is 1 to 1024, or `SFTMIX_UNSET`.
 *
 * `*out` is freed with `sftmix_generator_free`; the model may be freed before. From any thread.
 */
enum sftmix_status sftmix_generator_open(const struct sftmix_model *model,
                                         const char *device_word,
                                         int64_t threads,
                                         struct sftmix_generator **out);

/**
 * Reads a PEFT adapter folder, to be used by this name; one of the same name goes. From any thread.
 */
enum sftmix_status sftmix_generator_add_adapter(struct sftmix_generator *generator,
                                                const char *name,
                                                const char *dir);

/**
 * Generates with the adapter of this name from now on, or with none for NULL. From any thread.
 */
enum sftmix_status sftmix_generator_use_adapter(struct sftmix_generator *generator, const char *name);

/**
 * Names of the adapters that were added, and the one in use, as JSON: `{"adapters": [..], "adapter": ..}`.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_generator_adapters(struct sftmix_generator *generator, char **out);

/**
 * Takes the chat template in a file for the model's own. From any thread.
 */
enum sftmix_status sftmix_generator_load_chat_template(struct sftmix_generator *generator, const char *path);

/**
 * Forgets what a chat has left for its next turn, and frees its memory. From any thread.
 */
enum sftmix_status sftmix_generator_forget(struct sftmix_generator *generator);

/**
 * Continues a prompt. `options` may be NULL, `on_text` and `out` as well. A callback that answers `false` ends the text;
 * where it has said why by `sftmix_callback_failed`, the call fails with `SFTMIX_STATUS_CALLBACK`. One that answers `true`
 * has not failed, whatever it said.
 *
 * `out` was set up by `sftmix_generation_init` and is freed with `sftmix_generation_free`. From any thread.
 */
enum sftmix_status sftmix_generator_generate(struct sftmix_generator *generator,
                                             const char *prompt,
                                             const struct sftmix_generate_options *options,
                                             sftmix_text_callback on_text,
                                             void *user_data,
                                             struct sftmix_generation *out);

/**
 * The reply that follows a conversation, by the model's chat template. `messages_json` is a list of messages with `role`
 * and `content`, or an object with `messages`, `tools`, `documents` and `chat_template_kwargs`. Otherwise as
 * `sftmix_generator_generate`; what a reply has left is built upon by the next. From any thread.
 */
enum sftmix_status sftmix_generator_chat(struct sftmix_generator *generator,
                                         const char *messages_json,
                                         const struct sftmix_generate_options *options,
                                         sftmix_text_callback on_text,
                                         void *user_data,
                                         struct sftmix_generation *out);

/**
 * Ends the texts that were asked for so far: the one that is being generated behind its next token, those that wait for
 * their turn before they begin. Without one it does nothing, and what is asked for later is not touched. Returns at once.
 * From any thread, callbacks too.
 */
enum sftmix_status sftmix_generator_cancel(struct sftmix_generator *generator);

/**
 * Frees the generator; a text that is being generated is cancelled and its memory freed by whoever asked for it, and who
 * waits for a turn gets `SFTMIX_STATUS_INVALID_HANDLE`. NULL is fine. From any thread.
 */
enum sftmix_status sftmix_generator_free(struct sftmix_generator *generator);

/**
 * A new run in a folder that holds none, on a model that is open or, where that is NULL, on the one that the options name.
 *
 * `*out` is freed with `sftmix_job_free`; the model may be freed before. From any thread.
 */
enum sftmix_status sftmix_job_new(const struct sftmix_train_options *options,
                                  const struct sftmix_model *model,
                                  struct sftmix_job **out);

/**
 * As `sftmix_job_new`, on rows that `next` hands over one by one; the options name no data. It is called when the job
 * begins, on the thread that the job runs on, and not again once it gave NULL; what it gave is kept in the run folder.
 *
 * `user_data` is passed to it as it is and must stay until the job has begun to train, or was freed.
 */
enum sftmix_status sftmix_job_new_with_rows(const struct sftmix_train_options *options,
                                            const struct sftmix_model *model,
                                            sftmix_next_row next,
                                            void *user_data,
                                            struct sftmix_job **out);

/**
 * The run in a folder, to be taken up where its newest whole checkpoint stands; where no run is there yet, one is begun.
 * `settings_json`, which may be NULL, is an object of the settings that are given now: inputs may lie elsewhere, with the
 * same contents, and `device`, `memory_limit`, `resident_limit` and `cache_dir` may be others. The model, which may be
 * NULL, is one of them.
 *
 * `*out` is freed with `sftmix_job_free`. From any thread.
 */
enum sftmix_status sftmix_job_resume(const char *out_dir,
                                     const char *settings_json,
                                     const struct sftmix_model *model,
                                     struct sftmix_job **out);

/**
 * Tells `listener` each event from now on, in the place of an earlier one; NULL tells nobody. It is called on a thread of
 * the library, one call at a time, and training does not wait for it: while it is busy, the newest step takes the place
 * of the one before. It may call any function but those that wait for this job or free it.
 *
 * `user_data` is passed to it as it is and must stay until the job was freed. From any thread.
 */
enum sftmix_status sftmix_job_set_listener(struct sftmix_job *job,
                                           sftmix_listener listener,
                                           void *user_data);

/**
 * Runs the job on a thread of its own, from where its folder stands; `sftmix_job_wait` gives its end. From any thread.
 */
enum sftmix_status sftmix_job_start(struct sftmix_job *job);

/**
 * Runs the job to its end on this thread. `report` may be NULL. From any thread.
 */
enum sftmix_status sftmix_job_run(struct sftmix_job *job, struct sftmix_report *report);

/**
 * Trains on this thread for at most so many seconds and the micro-batch that is under way, writes a checkpoint and
 * returns; the next slice, in this process or another, goes on to the same bytes. However short it is, it tokenises some
 * rows, or takes a step or a batch of a sweep; to open and to prepare counts towards its time, and may take longer.
 * `*finished` says whether the run is at its end, and `report`, which may be NULL, is filled then. From any thread.
 */
enum sftmix_status sftmix_job_run_slice(struct sftmix_job *job,
                                        double seconds,
                                        bool *finished,
                                        struct sftmix_report *report);

/**
 * Waits for the end of the job, for so many milliseconds, or less than 0 for as long as it takes. `*ended` says whether
 * it has come to its end; NULL only where there is no limit. The status is then that of the run, and `report`, which may be
 * NULL, is filled where it is finished. A job that was not begun, or is between two slices, has no end to wait for: that is
 * `SFTMIX_STATUS_MISUSE`, and `*ended` is false. From any thread, but no callback of the job.
 */
enum sftmix_status sftmix_job_wait(struct sftmix_job *job,
                                   int64_t timeout_ms,
                                   bool *ended,
                                   struct sftmix_report *report);

/**
 * Frees the job. One that runs is stopped behind a checkpoint and waited for; no callback is called afterwards, and calls
 * of other threads that hold it begin nothing any more. NULL is fine. From any thread, but no callback of the job: there,
 * and in a log callback on one of its threads, it is `SFTMIX_STATUS_MISUSE`, and the job goes on.
 */
enum sftmix_status sftmix_job_free(struct sftmix_job *job);

/**
 * Asks the job to wait: it finishes its micro-batch and writes a checkpoint; memory stays held. Returns at once. From any
 * thread.
 */
enum sftmix_status sftmix_job_pause(struct sftmix_job *job);

/**
 * Lets the job go on after `sftmix_job_pause`. From any thread.
 */
enum sftmix_status sftmix_job_unpause(struct sftmix_job *job);

/**
 * Asks the job to stop within a micro-batch: behind a checkpoint of its last whole step, or without `save` at the newest
 * one that is there. It can be taken up either way, by this job or `sftmix_job_resume`. Returns at once; what runs or
 * waits for the job ends with `SFTMIX_STATUS_STOPPED`. From any thread.
 */
enum sftmix_status sftmix_job_cancel(struct sftmix_job *job,
                                     bool save);

/**
 * Changes what the job may take of the machine, from its next micro-batch on. From any thread.
 */
enum sftmix_status sftmix_job_update(struct sftmix_job *job, const struct sftmix_limits *limits);

/**
 * What the job is at. Returns at once, whatever the job does. From any thread.
 */
enum sftmix_status sftmix_job_status(const struct sftmix_job *job, struct sftmix_job_info *out);

/**
 * The same as JSON, with the folder of the newest checkpoint.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_job_status_json(const struct sftmix_job *job, char **out);

/**
 * The job's settings as JSON, by name.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_job_settings(const struct sftmix_job *job, char **out);

/**
 * The next event that was not acknowledged: the same one until it is. Waits up to so many milliseconds for one, less than
 * 0 for as long as the job runs; `SFTMIX_EVENT_KIND_NONE` where none came. Steps and evaluations come in full number, of
 * sweeps and checkpoints the newest.
 *
 * `out` was set up by `sftmix_event_init`, and is freed with `sftmix_event_free` before it is filled again. From any
 * thread.
 */
enum sftmix_status sftmix_job_next_event(struct sftmix_job *job,
                                         int64_t timeout_ms,
                                         struct sftmix_event *out);

/**
 * Says that the event of this number was dealt with: the next comes, and this one not again, also not after a crash. From
 * any thread.
 */
enum sftmix_status sftmix_job_acknowledge(struct sftmix_job *job,
                                          uint64_t number);

/**
 * Tells `callback` what the library logs, up to `level` (0 nothing to 5 all); NULL ends it. `user_data` is passed to it as
 * it is and must stay for as long as a call of it may be under way, which may be a little after it was replaced.
 * Without a callback nothing is logged anywhere. From any thread.
 */
enum sftmix_status sftmix_set_log_callback(int level,
                                           sftmix_log_callback callback,
                                           void *user_data);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_run_plan_init` says how many. NULL is left alone.
 */
void sftmix_run_plan_init_sized(struct sftmix_run_plan *plan,
                                size_t size);

/**
 * Plans a run before it is begun: memory, tokens, time, whether it stays within the limit. That it does not is no error.
 * The rows are read and tokenised, the weights are not opened. The model may be NULL, then the options name it. `plan` and
 * `json_out`, which gets the whole plan in the words of `sftmix plan --json`, may be NULL.
 *
 * `*json_out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_plan(const struct sftmix_train_options *options,
                               const struct sftmix_model *model,
                               struct sftmix_run_plan *plan,
                               char **json_out);

/**
 * Sets nothing, in a structure of which the caller has so many bytes: `sftmix_inspect_options_init` says how many. NULL is left alone.
 */
void sftmix_inspect_options_init_sized(struct sftmix_inspect_options *options,
                                       size_t size);

/**
 * What training would see of rows: some of them token by token, what became of all, how long they are; as JSON in the
 * words of `sftmix data inspect --json`.
 *
 * `*json_out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_inspect(const struct sftmix_inspect_options *options,
                                  char **json_out);

/**
 * Sets nothing, in a structure of which the caller has so many bytes: `sftmix_map_query_init` says how many. NULL is left alone.
 */
void sftmix_map_query_init_sized(struct sftmix_map_query *query,
                                 size_t size);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_map_page_init` says how many. NULL is left alone.
 */
void sftmix_map_page_init_sized(struct sftmix_map_page *page,
                                size_t size);

/**
 * Frees the rows of a page and their texts, and empties it; again, or with NULL, does nothing.
 */
void sftmix_map_page_free(struct sftmix_map_page *page);

/**
 * Opens the map of a run folder, also of one whose run still goes on.
 *
 * `*out` is freed with `sftmix_map_free`. From any thread.
 */
enum sftmix_status sftmix_map_open(const char *run, struct sftmix_map **out);

/**
 * A page of the map; `query` may be NULL.
 *
 * `page` was set up by `sftmix_map_page_init` and is freed with `sftmix_map_page_free` before it is filled again. From any
 * thread.
 */
enum sftmix_status sftmix_map_rows(const struct sftmix_map *map,
                                   const struct sftmix_map_query *map_query,
                                   struct sftmix_map_page *page);

/**
 * The same page as JSON.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_map_rows_json(const struct sftmix_map *map,
                                        const struct sftmix_map_query *map_query,
                                        char **out);

/**
 * What the log says as a whole, as JSON: distributions, both halves.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_map_summary(const struct sftmix_map *map, char **out);

/**
 * An example, by its index, under one checkpoint after another, as a JSON list.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_map_history(const struct sftmix_map *map, uint32_t example, char **out);

/**
 * Frees the handle. NULL is fine. From any thread.
 */
enum sftmix_status sftmix_map_free(struct sftmix_map *map);

/**
 * Opens a Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors) or a GGUF file.
 *
 * `*out` is freed with `sftmix_model_free`. From any thread.
 */
enum sftmix_status sftmix_model_open(const char *path, struct sftmix_model **out);

/**
 * Where the model lies, as an absolute path.
 *
 * `*out` is freed with `sftmix_string_free`. From any thread.
 */
enum sftmix_status sftmix_model_path(const struct sftmix_model *model, char **out);

/**
 * The same model with worker threads that are shared: jobs, evaluations and generators that are opened on `*out` compute on
 * these, where each would have its own otherwise. `threads` of `SFTMIX_UNSET` takes the machine's cores; an option `threads` of
 * another number is an error then.
 *
 * `*out` is freed with `sftmix_model_free`, by itself. From any thread.
 */
enum sftmix_status sftmix_model_share_workers(const struct sftmix_model *model,
                                              int64_t threads,
                                              struct sftmix_model **out);

/**
 * Frees the handle; what works on the model keeps it open until it ends. NULL is fine. From any thread.
 */
enum sftmix_status sftmix_model_free(struct sftmix_model *model);

/**
 * A `sftmix_status` as a word: `ok`, `invalid_config`. A number that this version does not know is `unknown`. The text is the
 * library's and stays.
 */
const char *sftmix_status_name(int status);

/**
 * A `sftmix_job_state` as a word: `idle`, `running`. Otherwise as `sftmix_status_name`.
 */
const char *sftmix_job_state_name(int state);

/**
 * A `sftmix_event_kind` as a word: `none`, `step`. Otherwise as `sftmix_status_name`.
 */
const char *sftmix_event_kind_name(int kind);

/**
 * A `sftmix_stage` as a word: `reference`, `single`; none is `none`. Otherwise as `sftmix_status_name`.
 */
const char *sftmix_stage_name(int stage);

/**
 * A `sftmix_half` as a word: `confident`. Otherwise as `sftmix_status_name`.
 */
const char *sftmix_half_name(int half);

/**
 * Sets nothing (NULL, `SFTMIX_UNSET` and NaN), in a structure of which the caller has so many bytes: `sftmix_train_options_init` says how many. NULL is left alone.
 */
void sftmix_train_options_init_sized(struct sftmix_train_options *options,
                                     size_t size);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_report_init` says how many. NULL is left alone.
 */
void sftmix_report_init_sized(struct sftmix_report *report,
                              size_t size);

/**
 * Frees the texts of a report and sets them to NULL; again, or with NULL, does nothing.
 */
void sftmix_report_free(struct sftmix_report *report);

/**
 * Sets nothing, in a structure of which the caller has so many bytes: `sftmix_limits_init` says how many. NULL is left alone.
 */
void sftmix_limits_init_sized(struct sftmix_limits *limits,
                              size_t size);

/**
 * Sets up a structure of which the caller has so many bytes: `sftmix_job_info_init` says how many. NULL is left alone.
 */
void sftmix_job_info_init_sized(struct sftmix_job_info *info,
                                size_t size);

/**
 * Makes one.
 *
 * `*out` is freed with `sftmix_stop_handle_free`. From any thread.
 */
enum sftmix_status sftmix_stop_handle_new(struct sftmix_stop_handle **out);

/**
 * Breaks off what it was given to. Returns at once. From any thread.
 */
enum sftmix_status sftmix_stop_handle_stop(struct sftmix_stop_handle *stop);

/**
 * Frees the handle; what it was given to goes on. NULL is fine. From any thread.
 */
enum sftmix_status sftmix_stop_handle_free(struct sftmix_stop_handle *stop);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SFTMIX_H */

/*
 * Sets a structure up, of the size that the program is compiled with: a library with a larger one writes no byte beyond, and
 * one with a smaller one fills the rest with zeros.
 */
#define sftmix_event_init(event) sftmix_event_init_sized((event), sizeof *(event))
#define sftmix_export_options_init(options) sftmix_export_options_init_sized((options), sizeof *(options))
#define sftmix_generate_options_init(options) sftmix_generate_options_init_sized((options), sizeof *(options))
#define sftmix_generation_init(generation) sftmix_generation_init_sized((generation), sizeof *(generation))
#define sftmix_run_plan_init(plan) sftmix_run_plan_init_sized((plan), sizeof *(plan))
#define sftmix_eval_options_init(options) sftmix_eval_options_init_sized((options), sizeof *(options))
#define sftmix_evaluation_init(evaluation) sftmix_evaluation_init_sized((evaluation), sizeof *(evaluation))
#define sftmix_inspect_options_init(options) sftmix_inspect_options_init_sized((options), sizeof *(options))
#define sftmix_map_query_init(query) sftmix_map_query_init_sized((query), sizeof *(query))
#define sftmix_map_page_init(page) sftmix_map_page_init_sized((page), sizeof *(page))
#define sftmix_train_options_init(options) sftmix_train_options_init_sized((options), sizeof *(options))
#define sftmix_report_init(report) sftmix_report_init_sized((report), sizeof *(report))
#define sftmix_limits_init(limits) sftmix_limits_init_sized((limits), sizeof *(limits))
#define sftmix_job_info_init(info) sftmix_job_info_init_sized((info), sizeof *(info))

/*
 * A row of a page, from 0. A later library may have larger rows than the program is compiled with.
 */
#define sftmix_map_page_row(page, i) \
  ((const struct sftmix_map_row *)(const void *)((const char *)(page)->rows + (i) * (page)->row_size))
