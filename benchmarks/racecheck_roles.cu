// What compute-sanitizer's racecheck makes of one write, a barrier of all warps that is reached from two places in the
// code, and one read: what Triton's warp specialisation does to hand out roles.
//
//     nvcc -arch=sm_90 -o roles benchmarks/racecheck_roles.cu
//     compute-sanitizer --tool racecheck ./roles 0    # 0 hazards
//     compute-sanitizer --tool racecheck ./roles 1    # a hazard, though the same barrier stands between
//
// In mode 1 the writing warps first meet at a barrier of their own, as Triton makes them do between two mbarriers of one
// allocation. The attention kernel for Hopper avoids that.
#include <cstdio>
#include <cstdlib>

__global__ void __launch_bounds__(384, 1) roles(int *out, int own_barrier) {
    __shared__ volatile unsigned char role[8];
    int warp = threadIdx.x / 32;
    if (warp < 4) {
        if (own_barrier) asm volatile("bar.sync 0, 128;" ::: "memory");
        if (threadIdx.x < 8) role[threadIdx.x] = threadIdx.x;
        asm volatile("barrier.sync 1, 384;" ::: "memory");
    } else {
        asm volatile("barrier.sync 1, 384;" ::: "memory");
        out[blockIdx.x * 256 + threadIdx.x - 128] = role[warp - 4];
    }
}

int main(int, char **argv) {
    int *out;
    cudaMalloc(&out, 264 * 256 * sizeof(int));
    roles<<<264, 384>>>(out, atoi(argv[1]));
    static int found[264 * 256];
    cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost);
    int wrong = 0;
    for (int i = 0; i < 264 * 256; ++i) wrong += found[i] != i % 256 / 32;
    printf("%s, %d wrong roles\n", cudaGetErrorString(cudaGetLastError()), wrong);
    return wrong != 0;
}
