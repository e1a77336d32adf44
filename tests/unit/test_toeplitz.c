/* SPDX-License-Identifier: BSD-3-Clause */
/* The simulator's Toeplitz hash against the published vectors (IPv4, with and without TCP ports). */
#include <stdint.h>

#include "../../tools/sim.h"
#include "unit.h"

static void test_vectors(void)
{
	static const struct {
		uint8_t input[12]; /* source, destination, ports */
		uint32_t addresses, with_ports;
	} vectors[] = {
	    {{66, 9, 149, 187, 161, 142, 100, 80, 2794 >> 8, 2794 & 255, 1766 >> 8, 1766 & 255},
	     0x323e8fc2,
	     0x51ccc178},
	    {{199, 92, 111, 2, 65, 69, 140, 83, 14230 >> 8, 14230 & 255, 4739 >> 8, 4739 & 255},
	     0xd718262a,
	     0xc626b0ea},
	    {{24, 19, 198, 95, 12, 22, 207, 184, 12898 >> 8, 12898 & 255, 38024 >> 8, 38024 & 255},
	     0xd2d0a5de,
	     0x5c2b394a},
	    {{38, 27, 205, 30, 209, 142, 163, 6, 48228 >> 8, 48228 & 255, 2217 >> 8, 2217 & 255},
	     0x82989176,
	     0xafc7327f},
	    {{153, 39, 163, 191, 202, 188, 127, 2, 44251 >> 8, 44251 & 255, 1303 >> 8, 1303 & 255},
	     0x5d1809c5,
	     0x10e828a2},
	};

	for (unsigned i = 0; i < sizeof(vectors) / sizeof(*vectors); i++) {
		CU_ASSERT_EQUAL(sim_toeplitz(vectors[i].input, 8), vectors[i].addresses);
		CU_ASSERT_EQUAL(sim_toeplitz(vectors[i].input, 12), vectors[i].with_ports);
	}
}

int main(void)
{
	CU_TestInfo tests[] = {{"published vectors", test_vectors}, CU_TEST_INFO_NULL};

	return unit_run("toeplitz", tests);
}
