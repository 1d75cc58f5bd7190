// PRELIMINARY, by the lead, so that others can build: replace this file wholly.
#pragma once
#include "isa.hpp"
namespace fanin { namespace {
inline void px(uint32_t c[4], uint32_t k0, uint32_t k1){ for(int i=0;i<10;i++){ uint64_t p0=uint64_t(0xD2511F53)*c[0],p1=uint64_t(0xCD9E8D57)*c[2]; uint32_t a=uint32_t(p1>>32)^c[1]^k0,b=uint32_t(p1),d=uint32_t(p0>>32)^c[3]^k1,e=uint32_t(p0); c[0]=a;c[1]=b;c[2]=d;c[3]=e;k0+=0x9E3779B9;k1+=0xBB67AE85; } }
inline void dropout_bits(uint64_t seed,uint64_t step,uint32_t layer,uint64_t r8,uint32_t c0,uint32_t th,uint16_t* out){ for(int i=0;i<8;i++)out[i]=0; for(int c=0;c<16;c++){ uint32_t w[4]={c0+c,uint32_t(r8),layer|uint32_t(step>>32)<<16,uint32_t(step)}; px(w,uint32_t(seed),uint32_t(seed>>32)); for(int i=0;i<8;i++){ uint32_t v=i<4?w[i]&0xffff:w[i-4]>>16; if(v>=th) out[i]|=1u<<c; } } }
inline void philox_blocks(const uint32_t c[4], const uint32_t k[2], int64_t n, uint32_t* o){ for(int64_t i=0;i<n;i++){ uint32_t w[4]={uint32_t(c[0]+i),c[1],c[2],c[3]}; px(w,k[0],k[1]); for(int j=0;j<4;j++)o[4*i+j]=w[j]; } }
inline void random_words(uint64_t seed,uint64_t step,uint32_t layer,uint32_t stream,int64_t start,int64_t n,uint64_t* o){ for(int64_t e=start;e<start+n;e++){ uint64_t b=e/2; uint32_t w[4]={uint32_t(b),uint32_t(b>>32),layer|uint32_t(step>>32)<<16|stream<<28,uint32_t(step)}; px(w,uint32_t(seed),uint32_t(seed>>32)); o[e-start]= e%2? w[2]|uint64_t(w[3])<<32 : w[0]|uint64_t(w[1])<<32; } }
}}
