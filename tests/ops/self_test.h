/* Bugs planted in kernels, on the host and on a device: how many are not found. */
#ifndef IJ_CHECK_SELF_TEST_H
#define IJ_CHECK_SELF_TEST_H
int ij_check_self_test(void);
#endif
