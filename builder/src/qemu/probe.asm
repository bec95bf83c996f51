; The tail (last 256 bytes) of the 64 KiB ROM that `accel` boots to find out whether KVM runs an ordinary
; guest: real mode, protected mode, long mode with paging, a million loads and stores, CPUID, one port write.
; Assemble with: nasm -f bin probe.asm. The bytes in accel.rs are the result; a test compares them.
bits 16
org 0xff00
entry:                       ; jumped to with cs = f000
    cli
    o32 lgdt [cs:gdtr]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp dword 0x08:(0xf0000+prot)
bits 32
prot:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    ; page tables at 0x1000: pml4[0] -> 0x2000, pdpt[0] -> 0x3000, pd[0] = 0..2 MiB
    xor eax, eax
    mov edi, 0x1000
    mov ecx, 0x0c00
    rep stosd
    mov dword [0x1000], 0x2003
    mov dword [0x2000], 0x3003
    mov dword [0x3000], 0x0083
    mov eax, 0x20
    mov cr4, eax
    mov eax, 0x1000
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or ah, 1
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    jmp 0x18:(0xf0000+long_mode)
bits 64
long_mode:
    mov ecx, 0x100000
    xor rax, rax
again:
    add rax, rcx
    mov [0x8000], rax
    dec ecx
    jnz again
    cpuid
    mov rax, [0x8000]
    mov rcx, 0x8000080000     ; sum 1..0x100000
    cmp rax, rcx
    mov al, 0x15
    je done
    mov al, 0x01
done:
    mov dx, 0x501
    out dx, al
stop:
    hlt
    jmp stop
align 8
gdt:
    dq 0
    dq 0x00cf9a000000ffff
    dq 0x00cf92000000ffff
    dq 0x00af9a000000ffff
gdtr:
    dw 31
    dd 0xf0000+gdt
times 0xf0-($-$$) db 0
reset:
bits 16
    jmp 0xf000:entry
times 0x100-($-$$) db 0
