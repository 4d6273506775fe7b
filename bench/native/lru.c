// The CPU engine's plan (assembly/projectHidden.ts, scanPair.ts, output.ts and tiles.ts) in C, with vectors of 128 bits and x86's 16 registers:
// what the same operations take without WebAssembly. ../native.mjs compiles and runs it.
//
// Its argument is a file: `task` below, the program's image, x. A line on stdin runs the next piece, from a state of zeros, and is
// answered by its ms; "y PATH" writes the last piece's y to a file. With ONE_PART the scan goes on through all tokens in float32: the usual
// way, which gives other bits wherever a sequence is cut otherwise (docs/how-it-works.md).
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef ONE_PART
#define ONE_PART 0
#endif
/** As in assembly/scanPair.ts. */
#define BLOCK_CHUNKS 8
#define INLINE static inline __attribute__((always_inline))
// By themselves, or the registers that the compiler finds for their loops depend on what else is in main.
#define OUTLINE static __attribute__((noinline))
typedef __m128 v4;

static struct {
  int32_t dModel, groups, outWidth, tileTokens, chunk, tokens, pieceTokens;
  /** Offsets into the image, and its length. */
  int32_t B, lambdaT, powers, C, D, bytes;
} task;
static char *image;
/** h of a tile, [tokens, groups, re x 4 | im x 4]; the state, as in the engine: carry in float64, loc. */
static float *h, *loc;
static double *carry;

/** a, b: the first and second four of the 8 columns of `rows` rows of x W, W a panel. */
INLINE void product(int rows, v4 *a, v4 *b, const float *x, size_t stride, size_t k, const float *w) {
  for (int r = 0; r < rows; r++) a[r] = b[r] = _mm_setzero_ps();
  for (size_t i = 0; i < k; i++, w += 8) {
    const v4 w0 = _mm_loadu_ps(w), w1 = _mm_loadu_ps(w + 4);
    for (int r = 0; r < rows; r++) {
      const v4 s = _mm_set1_ps(x[r * stride + i]);
      a[r] = _mm_fmadd_ps(s, w0, a[r]);
      b[r] = _mm_fmadd_ps(s, w1, b[r]);
    }
  }
}

INLINE v4 cmaddRe(v4 ar, v4 ai, v4 br, v4 bi, v4 cr) { return _mm_fnmadd_ps(ai, bi, _mm_fmadd_ps(ar, br, cr)); }
INLINE v4 cmaddIm(v4 ar, v4 ai, v4 br, v4 bi, v4 ci) { return _mm_fmadd_ps(ai, br, _mm_fmadd_ps(ar, bi, ci)); }

/** bu of `rows` tokens and four states. */
INLINE void projectRows(int rows, float *out, const float *u, const float *B) {
  const size_t stride = 8 * (size_t)task.groups;
  v4 re[6], im[6];
  product(rows, re, im, u, task.dModel, task.dModel, B);
  for (int r = 0; r < rows; r++, out += stride) {
    _mm_storeu_ps(out, re[r]);
    _mm_storeu_ps(out + 4, im[r]);
  }
}

/** loc = lambda loc + bu */
INLINE void nextLoc(v4 lr, v4 li, v4 *r, v4 *i, const float *bu) {
  const v4 next = cmaddRe(lr, li, *r, *i, _mm_loadu_ps(bu));
  *i = cmaddIm(lr, li, *r, *i, _mm_loadu_ps(bu + 4));
  *r = next;
}

/** h = loc + power carry */
INLINE void writeHidden(float *out, v4 r, v4 i, const float *power, v4 cr, v4 ci) {
  const v4 pr = _mm_loadu_ps(power), pi = _mm_loadu_ps(power + 4);
  _mm_storeu_ps(out, ONE_PART ? r : cmaddRe(pr, pi, cr, ci, r));
  _mm_storeu_ps(out + 4, ONE_PART ? i : cmaddIm(pr, pi, cr, ci, i));
}

/** bu becomes h, of some tokens of a chunk and four states, or eight: each goes on while the other waits. */
INLINE void scanRows(int groups, float *at, int tokens, const float *lambda, float *state, const float *power,
                     const double *carried) {
  const size_t stride = 8 * (size_t)task.groups;
  v4 lr[2], li[2], sr[2], si[2], cr[2], ci[2];
  for (int g = 0; g < groups; g++) {
    const double *c = carried + 8 * g;
    lr[g] = _mm_loadu_ps(lambda + 8 * g), li[g] = _mm_loadu_ps(lambda + 8 * g + 4);
    sr[g] = _mm_loadu_ps(state + 8 * g), si[g] = _mm_loadu_ps(state + 8 * g + 4);
    cr[g] = _mm_setr_ps(c[0], c[1], c[2], c[3]), ci[g] = _mm_setr_ps(c[4], c[5], c[6], c[7]);
  }
  for (int g = 0; g < groups; g++) nextLoc(lr[g], li[g], &sr[g], &si[g], at + 8 * g);
  for (; --tokens > 0; at += stride, power += stride) {
    for (int g = 0; g < groups; g++) {
      const v4 r = sr[g], i = si[g];
      nextLoc(lr[g], li[g], &sr[g], &si[g], at + stride + 8 * g);
      writeHidden(at + 8 * g, r, i, power + 8 * g, cr[g], ci[g]);
    }
  }
  for (int g = 0; g < groups; g++) writeHidden(at + 8 * g, sr[g], si[g], power + 8 * g, cr[g], ci[g]);
  for (int g = 0; g < groups; g++) {
    _mm_storeu_ps(state + 8 * g, sr[g]);
    _mm_storeu_ps(state + 8 * g + 4, si[g]);
  }
}

/** The carry of four states past a chunk, whose loc `state` then starts anew. */
INLINE void advance(double *c, float *state, const double *lambdaT) {
  for (int i = 0; i < 4; i++) {
    const double re = lambdaT[i] * c[i] - lambdaT[i + 4] * c[i + 4];
    const double im = lambdaT[i] * c[i + 4] + lambdaT[i + 4] * c[i];
    c[i] = re + state[i];
    c[i + 4] = im + state[i + 4];
  }
  memset(state, 0, 8 * sizeof(float));
}

OUTLINE void projectHidden(const float *u, int tokens) {
  const size_t stride = 8 * (size_t)task.groups, dModel = task.dModel;
  const int block = BLOCK_CHUNKS * task.chunk;
  for (int g = 0; g < task.groups; g += 2) {
    const int pair = g + 1 < task.groups;
    const float *powers = (float *)(image + task.powers) + 8 * g;
    const double *lambdaT = (double *)(image + task.lambdaT) + 8 * g;
    double *c = carry + 8 * g;
    float *state = loc + 8 * g;
    for (int from = 0; from < tokens; from += block) {
      const int end = from + block < tokens ? from + block : tokens;
      for (int i = g; i <= g + pair; i++) {
        const float *B = (float *)(image + task.B) + 8 * i * dModel;
        int t = from;
        for (; t + 6 <= end; t += 6) projectRows(6, h + t * stride + 8 * i, u + t * dModel, B);
        for (; t + 4 <= end; t += 4) projectRows(4, h + t * stride + 8 * i, u + t * dModel, B);
        for (; t < end; t++) projectRows(1, h + t * stride + 8 * i, u + t * dModel, B);
      }
      for (int t = from; t < end; t += task.chunk) {
        const int length = t + task.chunk < end ? task.chunk : end - t;
        if (pair) scanRows(2, h + t * stride + 8 * g, length, powers, state, powers, c);
        else scanRows(1, h + t * stride + 8 * g, length, powers, state, powers, c);
        if (ONE_PART || length < task.chunk) continue;
        for (int i = 0; i <= pair; i++) advance(c + 8 * i, state + 8 * i, lambdaT + 8 * i);
      }
    }
  }
}

/** The tokens of one tile that `rows` at a time make, of one panel of C. */
INLINE void outputRows(int rows, float *y, const float *hidden, const float *C, const float *D, const float *u) {
  v4 a[6], b[6];
  product(rows, a, b, hidden, 8 * (size_t)task.groups, 8 * (size_t)task.groups, C);
  const v4 d0 = _mm_loadu_ps(D), d1 = _mm_loadu_ps(D + 4);
  for (int r = 0; r < rows; r++, y += task.outWidth, u += task.dModel) {
    _mm_storeu_ps(y, _mm_fmadd_ps(d0, _mm_loadu_ps(u), a[r]));
    _mm_storeu_ps(y + 4, _mm_fmadd_ps(d1, _mm_loadu_ps(u + 4), b[r]));
  }
}

OUTLINE void output(float *y, const float *u, int tokens) {
  const size_t width = 8 * (size_t)task.groups;
  for (int o = 0; o < task.outWidth; o += 8) {
    const float *C = (float *)(image + task.C) + o * width, *D = (float *)(image + task.D) + o;
    int t = 0;
    for (; t + 6 <= tokens; t += 6) outputRows(6, y + t * task.outWidth + o, h + t * width, C, D, u + t * task.dModel + o);
    for (; t + 4 <= tokens; t += 4) outputRows(4, y + t * task.outWidth + o, h + t * width, C, D, u + t * task.dModel + o);
    for (; t < tokens; t++) outputRows(1, y + t * task.outWidth + o, h + t * width, C, D, u + t * task.dModel + o);
  }
}

static void *block(size_t bytes) {
  void *at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!at) exit(1);
  memset(at, 0, bytes);
  return at;
}

int main(int count, char **args) {
  FILE *from = count == 2 ? fopen(args[1], "rb") : NULL;
  if (!from || fread(&task, sizeof task, 1, from) != 1) return 2;
  const size_t tokens = task.tokens, states = 8 * (size_t)task.groups;
  image = block(task.bytes);
  float *x = block(4 * tokens * task.dModel), *y = block(4 * tokens * task.outWidth);
  h = block(4 * states * task.tileTokens);
  loc = block(4 * states);
  carry = block(8 * states);
  if (fread(image, 1, task.bytes, from) != (size_t)task.bytes) return 2;
  if (fread(x, 4 * (size_t)task.dModel, tokens, from) != tokens) return 2;
  size_t at = 0, before = 0;
  for (char line[4096]; fgets(line, sizeof line, stdin); fflush(stdout)) {
    if (line[0] == 'y') {
      line[strcspn(line, "\n")] = 0;
      FILE *to = fopen(line + 2, "wb");
      const size_t written = to ? fwrite(y + before * task.outWidth, 4 * (size_t)task.outWidth, task.pieceTokens, to) : 0;
      if (written != (size_t)task.pieceTokens || fclose(to)) return 2;
      printf("written\n");
      continue;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    memset(loc, 0, 4 * states);
    memset(carry, 0, 8 * states);
    for (int t = 0; t < task.pieceTokens; t += task.tileTokens) {
      const int length = task.tileTokens < task.pieceTokens - t ? task.tileTokens : task.pieceTokens - t;
      const float *u = x + (at + t) * task.dModel;
      projectHidden(u, length);
      output(y + (at + t) * task.outWidth, u, length);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.6f\n", (end.tv_sec - start.tv_sec) * 1e3 + (end.tv_nsec - start.tv_nsec) / 1e6);
    before = at;
    at = (at + task.pieceTokens) % tokens;
  }
  return 0;
}
