/* The program python.exe, which CPython's own is too: everything is in its DLL. */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

int Py_Main(int count, wchar_t **words);

int wmain(int count, wchar_t **words)
{
    return Py_Main(count, words);
}
