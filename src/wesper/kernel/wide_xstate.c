/*
 * ptrace(2) for a user-mode Linux before 6.13 on a CPU whose registers are more than it can save; to be preloaded.
 *
 * Such a kernel keeps the extended state (NT_X86_XSTATE) in a buffer that ends behind AVX-512 and PKRU. A host with AMX
 * has more (11,008 octets), gives what fits, and refuses to set less than all: the first program dies. Here the state
 * is read and written whole, and the kernel sees as much of it as it knows. No tile registers in the guest, then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define GETREGSET 0x4204L /* include/uapi/linux/ptrace.h */
#define SETREGSET 0x4205L
#define X86_XSTATE 0x202L /* include/uapi/linux/elf.h */

long ptrace(int request, ...)
{
	static unsigned char whole[1 << 16] __attribute__((aligned(64)));
	struct iovec all = { whole, sizeof(whole) }, *some;
	long pid, address, data, result;
	va_list rest;

	va_start(rest, request);
	pid = va_arg(rest, long);
	address = va_arg(rest, long);
	data = va_arg(rest, long);
	va_end(rest);

	if ((request == GETREGSET || request == SETREGSET) && address == X86_XSTATE) {
		some = (struct iovec *)data;
		result = syscall(SYS_ptrace, GETREGSET, pid, address, &all);
		if (result == 0 && some->iov_len > all.iov_len)
			some->iov_len = all.iov_len;
		if (result == 0 && request == GETREGSET)
			memcpy(some->iov_base, whole, some->iov_len);
		if (result == 0 && request == SETREGSET) {
			memcpy(whole, some->iov_base, some->iov_len);
			result = syscall(SYS_ptrace, SETREGSET, pid, address, &all);
		}
		return result;
	}
	if (request >= 1 && request <= 3) { /* PEEK*: the raw call writes the word to where its last argument points */
		long word = 0;

		result = syscall(SYS_ptrace, (long)request, pid, address, &word);
		if (result == 0)
			errno = 0;
		return result == 0 ? word : result;
	}
	return syscall(SYS_ptrace, (long)request, pid, address, data);
}
