#include <stdio.h>
#include <string.h>

int main(void)
{
	/* What the header says of itself must agree with its PTX. */
	if (strlen(tda_kernel_ptx) != sizeof tda_kernel_ptx - 1 || TDA_KERNEL_PARAMS < 1 || !tda_kernel_param_names[0])
		return 1;
	return fputs(tda_kernel_ptx, stdout) < 0;
}
